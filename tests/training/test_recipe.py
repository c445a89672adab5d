"""Parse recipes and command lines into checked arguments, or refuse them in one sentence."""

from pathlib import Path

import pytest
import yaml

from modeling_clipscratch.training.recipe import checks
from modeling_clipscratch.training.recipe.arguments import recipe_fields
from modeling_clipscratch.training.recipe.recipe import nearest_field, parse_recipe, read_recipe, recipes
from modeling_clipscratch.utils.errors import ClipScratchError

CONFIGURATION = Path(__file__).resolve().parents[2] / "configuration"


@pytest.fixture
def recipe(tmp_path):
    """Text -> path of a recipe that holds it."""

    def write(text):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_command_line_overrides_the_recipe_and_that_the_defaults(recipe):
    path = recipe("learning_rate: 2.0e-3\nprojection_dim: 64\nhorizontal_flip: 0.5\n")
    model, _, args, settings = parse_recipe([path, "--projection_dim", "32", "--output_dir", "somewhere"])
    assert (model.projection_dim, args.learning_rate, args.horizontal_flip) == (32, 2e-3, 0.5)
    assert (args.output_dir, args.weight_decay, model.loss) == ("somewhere", 0.1, "softmax")
    assert settings == {
        "learning_rate": 2e-3, "projection_dim": 32, "horizontal_flip": 0.5, "output_dir": "somewhere",
    }  # fmt: skip


def test_name_of_a_recipe_stands_for_its_path_also_in_a_wheel(monkeypatch, tmp_path):
    path = CONFIGURATION / "digits.yaml"
    assert recipes()["digits"] == path and read_recipe("digits") == read_recipe(path)
    (tmp_path / "configuration").mkdir()
    (tmp_path / "configuration" / "mine.yaml").write_text("seed: 5\n")
    monkeypatch.setattr("modeling_clipscratch.training.recipe.recipe._PACKAGE", tmp_path)
    assert read_recipe("mine") == {"seed": 5}


# One line of YAML, or words of a command line, and the value that they give.
READINGS = [
    ("freeze_text: no", ["--freeze_text", "false"], "freeze_text", False),
    ("freeze_text: yes", ["--freeze_text"], "freeze_text", True),
    ("streaming: false", ["--streaming=false"], "streaming", False),
    ("cache_features: false", ["--no-cache-features"], "cache_features", False),
    ("bf16: true", ["--bf16"], "bf16", True),
    ("learning_rate: 5e-4", ["--learning-rate", "5e-4"], "learning_rate", 5e-4),
    ("learning_rate: 1", ["--learning_rate=1"], "learning_rate", 1.0),
    ("max_steps: -1", ["--max_steps", "-1"], "max_steps", -1),
    ("seed: 08", ["--seed", "08"], "seed", 8),
    ("encode_chunk_size: 64", ["--encode_chunk_size", "64"], "encode_chunk_size", "64"),
    ("eval_strategy: no", ["--eval_strategy", "no"], "eval_strategy", "no"),
    ("resume_from_checkpoint: true", ["--resume_from_checkpoint", "true"], "resume_from_checkpoint", "true"),
    ("class_names: [no, 1, tom cat]", ["--class_names", "no", "1", "tom cat"], "class_names", ["no", "1", "tom cat"]),
    ("templates: a {}", ["--templates", "a {}"], "templates", ["a {}"]),
    ("report_to: none", ["--report_to", "none"], "report_to", ["none"]),
    (
        "lr_scheduler_kwargs: {num_decay_steps: 10}", ["--lr_scheduler_kwargs", '{"num_decay_steps": 10}'],
        "lr_scheduler_kwargs", '{"num_decay_steps": 10}',
    ),
    ("lr_scheduler_kwargs: {min_lr: 1e-5}", [], "lr_scheduler_kwargs", '{"min_lr": 1e-05}'),
    ("image_column: null", [], "image_column", None),
    ("save_total_limit: null", [], "save_total_limit", None),
    ("image_column:", [], "image_column", None),
]  # fmt: skip


@pytest.mark.parametrize(("line", "words", "field", "value"), READINGS)
def test_value_is_read_alike_from_a_recipe_and_from_the_command_line(recipe, monkeypatch, line, words, field, value):
    assert read_recipe(recipe(line + "\n")) == {field: value}
    monkeypatch.setattr(checks, "get_scheduler", lambda *args: None)
    if words:
        assert parse_recipe(words)[3] == {field: value}
    assert yaml.safe_load(yaml.safe_dump({field: value})) == {field: value}  # a run keeps its recipe


def test_reporting_services_may_be_several(recipe, monkeypatch):
    monkeypatch.setattr(checks, "get_available_reporting_integrations", lambda: ["tensorboard", "wandb"])
    both = ["tensorboard", "wandb"]
    assert parse_recipe([recipe("report_to: [tensorboard, wandb]\n")])[2].report_to == both
    assert parse_recipe([recipe("report_to: wandb\n"), "--report_to", "none"])[2].report_to == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("learning_rte: 1.0\n", r"^recipe .*recipe.yaml: learning_rte is not a field; did you mean learning_rate\?$"),
        ("xyzzy: 1\n", "xyzzy is not a field; --help all lists all fields"),
        ("learning_rate: fast\n", "recipe.yaml: argument --learning_rate.*: invalid float value: 'fast'"),
        ("seed: 1.5\n", "--seed: invalid int value: '1.5'"),
        ("freeze_text: maybe\n", "Truthy value expected: got maybe"),
        ("loss: hinge\n", "--loss: invalid choice: 'hinge'"),
        ("optim: adamx\n", "--optim: invalid choice: 'adamx'"),
        ("dataset: [a, b]\n", "'b' belongs to no field"),
        ("seed:\n", "seed has no value; give one, or delete the line"),
        ("- dataset\n", "must be a flat list of 'field: value' lines"),
        ("", "must be a flat list of 'field: value' lines"),
        ("a: b: c\n", "recipe .* is not YAML"),
        ("lr_scheduler_type: cosin\n", "cosin is not a valid SchedulerType"),
    ],
)
def test_mistake_in_a_recipe_is_named(recipe, text, sentence):
    with pytest.raises(ClipScratchError, match=sentence):
        parse_recipe([recipe(text)])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--learning_rat", "1"], r"^--learning_rat is not a field; did you mean --learning_rate\?$"),
        (["digits", "scenes"], "'scenes' belongs to no field; give a recipe first"),
        (["nowhere"], "recipe nowhere does not exist; give a path, or one of cifar10, digits, flickr8k, own_images"),
        (["digit"], r"did you mean digits\?"),
        ([str(CONFIGURATION / "digit.yaml")], r"did you mean .*digits\.yaml\?"),
        # checks of transformers, whose ValueError would pass for a bug
        (["--eval_strategy", "sometimes"], "sometimes is not a valid IntervalStrategy"),
        (["--lr_scheduler_kwargs", "{a"], "Expecting property name"),
        (["--eval_steps", "3", "--save_steps", "4"], "the saving steps to be a round multiple of the evaluation steps"),
        (["--warmup_steps", "-1"], "warmup_steps"),
    ],
)
def test_mistake_on_the_command_line_is_named(arguments, sentence):
    with pytest.raises(ClipScratchError, match=sentence):
        parse_recipe(arguments)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("learning_rte", "learning_rate"), ("learningrate", "learning_rate"), ("num_epochs", "num_train_epochs"),
        ("epochs", "num_train_epochs"), ("batch_size", "global_batch_size"), ("warmup_step", "warmup_steps"),
        ("sed", "seed"), ("num_workers", "dataloader_num_workers"), ("early_stopping", "early_stopping_patience"),
        ("temperature", None), ("gpus", None), ("num_classes", None), ("lr", None), ("output_folder", None),
    ],
)  # fmt: skip
def test_name_near_a_field_is_corrected_and_no_other(name, field):
    assert nearest_field(name) == field


@pytest.mark.parametrize("path", sorted(CONFIGURATION.glob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_of_the_project_can_be_parsed(path):
    model, data, args, settings = parse_recipe([str(path)])
    for name, value in settings.items():
        [owner] = [part for part in (model, data, args) if name in type(part).__dataclass_fields__]
        assert getattr(owner, name) == value


def test_help_lists_what_matters_and_on_demand_every_field_once(capsys):
    printed = {}
    for words in (["--help"], ["digits", "--help", "all"]):
        with pytest.raises(SystemExit) as ended:
            parse_recipe(words)
        assert not ended.value.code
        lines = capsys.readouterr().out.splitlines()
        printed[words[-1]] = [line.split()[0][2:] for line in lines if line.startswith("  --")]
    assert 15 <= len(printed["--help"]) <= 30 and "dataset" in printed["--help"]
    assert sorted(printed["all"]) == sorted(recipe_fields())
    own = printed["all"].index("ema_decay")
    assert own < printed["all"].index("logging_strategy")  # ours before those that only transformers has
