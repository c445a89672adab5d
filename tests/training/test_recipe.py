"""Parse recipe files and command lines into checked arguments, or refuse them in one sentence."""

from pathlib import Path

import pytest
import yaml

from modeling_clipscratch.training.recipe import checks
from modeling_clipscratch.training.recipe.arguments import recipe_fields
from modeling_clipscratch.training.recipe.recipe import nearest_field, parse_recipe, read_recipe

CONFIGURATION = Path(__file__).resolve().parents[2] / "configuration"


@pytest.fixture
def recipe(tmp_path):
    """Text -> path of a recipe that holds it."""

    def write(text):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_command_line_goes_before_the_recipe_and_that_before_the_defaults(recipe):
    path = recipe("learning_rate: 2.0e-3\nprojection_dim: 64\nhorizontal_flip: 0.5\n")
    model, _, args, settings = parse_recipe([path, "--projection_dim", "32", "--output_dir", "somewhere"])
    assert (model.projection_dim, args.learning_rate, args.horizontal_flip) == (32, 2e-3, 0.5)
    assert (args.output_dir, args.weight_decay, model.loss) == ("somewhere", 0.1, "softmax")
    assert settings == {
        "learning_rate": 2e-3, "projection_dim": 32, "horizontal_flip": 0.5, "output_dir": "somewhere",
    }  # fmt: skip


def test_recipe_may_be_left_out():
    model, data, args, settings = parse_recipe(["--dataset", "scenes"])
    assert data.dataset == "scenes" and settings == {"dataset": "scenes"}
    assert (args.per_device_train_batch_size, args.seed, model.projection_dim) == (256, 0, 512)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--no_freeze_text"], False),
        (["--no-freeze-text"], False),
        (["--freeze_text", "false"], False),
        (["--freeze-text=false"], False),
        (["--freeze_text", "true"], True),
        (["--freeze_text"], True),
    ],
)
def test_booleans_can_be_said_in_every_way(recipe, arguments, wanted):
    path = recipe(f"freeze_text: {'false' if wanted else 'true'}\n")
    model, _, _, settings = parse_recipe([path, *arguments])
    assert model.freeze_text is wanted and settings == {"freeze_text": wanted}


def test_lists_are_read_from_both(recipe):
    path = recipe("class_names: [cat, dog]\ntemplates:\n  - a {}\n  - the {}\n")
    assert parse_recipe([path])[1].class_names == ["cat", "dog"]
    data = parse_recipe([path, "--class_names", "tom cat", "hound"])[1]
    assert data.class_names == ["tom cat", "hound"] and data.templates == ["a {}", "the {}"]


def test_reporting_services_may_be_several(recipe, monkeypatch):
    monkeypatch.setattr(checks, "get_available_reporting_integrations", lambda: ["tensorboard", "wandb"])
    both = ["tensorboard", "wandb"]
    assert parse_recipe([recipe("report_to: [tensorboard, wandb]\n")])[2].report_to == both
    assert parse_recipe(["--report_to", *both])[2].report_to == both
    assert parse_recipe(["--report_to", "tensorboard"])[2].report_to == ["tensorboard"]
    assert parse_recipe([recipe("report_to: none\n")])[2].report_to == []
    assert parse_recipe([recipe("report_to: wandb\n"), "--report_to", "none"])[2].report_to == []


@pytest.mark.parametrize(("said", "wanted"), [([], None), (["--bf16"], True), (["--bf16", "false"], False)])
def test_flag_of_precision_may_be_said_bare_or_not_at_all(said, wanted):
    settings = parse_recipe(said)[3]
    assert settings.get("bf16") is wanted


def test_whole_numbers_do_for_fractions_and_null_for_what_may_be_left_out(recipe):
    _, data, args, _ = parse_recipe([recipe("learning_rate: 1\nimage_column: null\nnum_train_epochs: 2\n")])
    assert args.learning_rate == 1 and data.image_column is None and args.num_train_epochs == 2


def test_every_setting_of_a_run_can_be_written_as_yaml_again(recipe):
    path = recipe("lr_scheduler_type: linear\noptim: sgd\nclass_names: [a, b]\n")
    settings = parse_recipe([path, "--save_strategy", "epoch", "--hub_strategy", "end", "--no_freeze_text"])[3]
    assert yaml.safe_load(yaml.safe_dump(settings)) == settings


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("learning_rte: 1.0\n", r"recipe .*recipe.yaml: key learning_rte is not known; did you mean learning_rate\?"),
        ("xyzzy: 1\n", "key xyzzy is not known; --help lists all of them"),
        ("learning_rate: 5e-4\n", "learning_rate: '5e-4' is of type str; YAML reads 5e-4 as text; write 0.0005"),
        ("learning_rate: 1e-7\n", "YAML reads 1e-7 as text; write 1.0e-7"),
        ("learning_rate: 12345678e-13\n", "YAML reads 12345678e-13 as text; write 1.2345678e-6"),
        ("max_steps: 2e6\n", "YAML reads 2e6 as text; write 2000000"),
        ("seed: '20261126'\n", "YAML reads 20261126 as text; write 20261126"),
        ("learning_rate: nan\n", "learning_rate: 'nan' is of type str; give float"),
        ("learning_rate: fast\n", "learning_rate: 'fast' is of type str; give float"),
        ("num_train_epochs: '3'\n", "num_train_epochs: '3' is of type str"),
        ("seed: 1.5\n", "seed: 1.5 is of type float; give int"),
        ("seed: true\n", "seed: True is of type bool; give int"),
        ("freeze_text: 1\n", "freeze_text: 1 is of type int; give bool"),
        ("templates: a {}\n", "templates: 'a {}' is of type str; give list"),
        ("dataset: [a, b]\n", r"dataset: \['a', 'b'\] is of type list; give str\."),
        ("report_to: [1]\n", r"report_to: \[1\] is of type list; give list of str or str\."),
        ("report_to: no\n", "YAML reads false, no, off as False; write 'none' in quotes"),
        ("resume_from_checkpoint: true\n", "YAML reads true, yes, on as True; write 'true' in quotes"),
        ("test_split: no\n", "write 'no' in quotes"),
        ("bf16: 1\n", "bf16: 1 is of type int; give bool"),
        ("loss: hinge\n", "loss: 'hinge' is not one of softmax, sigmoid, diagonal"),
        ("- dataset\n", "must be a flat list of 'field: value' lines"),
        ("", "must be a flat list of 'field: value' lines"),
        ("a: b: c\n", "recipe .* is not YAML"),
        ("lr_scheduler_type: cosin\n", "cosin is not a valid SchedulerType"),
    ],
)
def test_mistake_in_a_recipe_is_named_with_its_remedy(recipe, text, sentence):
    with pytest.raises(ValueError, match=sentence):
        parse_recipe([recipe(text)])


@pytest.mark.parametrize("number", ["1e-7", "5e-4", "12e-9", "1e3", "3e10"])
def test_remedy_for_a_number_is_one_that_yaml_reads(recipe, number):
    with pytest.raises(ValueError) as refused:
        read_recipe(recipe(f"learning_rate: {number}\n"))
    remedy = str(refused.value).split("write ")[1].rstrip(".")
    assert yaml.safe_load(remedy) == float(number)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--learning_rat", "1"], r"option --learning_rat is not known; did you mean --learning_rate\?"),
        (["--xyzzy", "1"], "option --xyzzy is not known; --help lists all of them"),
        (["--learning_rate", "fast"], "invalid float value: 'fast'"),
        (["--loss", "hinge"], "--loss: invalid choice: 'hinge'"),
        (["nowhere.yaml"], "recipe nowhere.yaml does not exist"),
        ([str(CONFIGURATION / "digit.yaml")], r"did you mean .*digits\.yaml\?"),
    ],
)
def test_mistake_on_the_command_line_is_named_with_its_remedy(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        parse_recipe(arguments)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("learning_rte", "learning_rate"), ("lerning_rate", "learning_rate"), ("learningrate", "learning_rate"),
        ("num_epochs", "num_train_epochs"), ("epochs", "num_train_epochs"), ("batch_size", "global_batch_size"),
        ("globl_batch_size", "global_batch_size"), ("warmup_step", "warmup_steps"), ("weight_decy", "weight_decay"),
        ("sed", "seed"), ("freez_text", "freeze_text"), ("visiontower", "vision_tower"), ("patchsize", "patch_size"),
        ("text_towr", "text_tower"), ("projection_dims", "projection_dim"), ("save_step", "save_steps"),
        ("max_step", "max_steps"), ("precison", "precision"), ("label_colum", "label_column"),
        ("clas_names", "class_names"), ("num_workers", "dataloader_num_workers"), ("image_sz", "image_size"),
        ("early_stopping", "early_stopping_patience"), ("random_crop", "random_crop_min_area"),
    ],
)  # fmt: skip
def test_misspelt_or_shortened_name_is_corrected(name, field):
    assert nearest_field(name) == field


@pytest.mark.parametrize(
    "name",
    ["temperature", "momentum", "gpus", "architecture", "verbose", "quiet", "device", "resume", "threshold", "beta"]
    + ["foo", "num_classes", "hidden_dim", "logdir", "config", "data_dir", "model", "tokens", "lr", "mixup_alpha"]
    + ["early_termination", "patience_of_angels", "output_folder", "jit_mode_eval", "torchdynamo"],
)
def test_name_that_is_near_none_has_no_correction(name):
    assert nearest_field(name) is None


@pytest.mark.parametrize("name", ["learning_rate", "seed", "loss", "dataset"])
def test_empty_value_of_a_needed_field_is_refused(recipe, name):
    with pytest.raises(ValueError, match=f"{name}: None is of type NoneType"):
        parse_recipe([recipe(f"{name}:\n")])


@pytest.mark.parametrize("names", ["[0, 1]", "[yes, no]"])
def test_entries_of_a_list_must_have_its_type(recipe, names):
    # YAML reads yes and no as booleans; as class names they would break the prompts.
    with pytest.raises(ValueError, match="class_names: .* give list of str"):
        parse_recipe([recipe(f"class_names: {names}\n")])


@pytest.mark.parametrize("key", ["1", "on"])
def test_key_that_is_no_text_is_refused_in_a_sentence(recipe, key):
    with pytest.raises(ValueError, match="is not known"):
        parse_recipe([recipe(f"{key}: 2\n")])


@pytest.mark.parametrize("name", ["eval_strategy", "save_strategy"])
def test_unquoted_no_is_refused_with_its_remedy(recipe, name):
    with pytest.raises(ValueError, match="'no'"):
        parse_recipe([recipe(f"{name}: no\n")])


@pytest.mark.parametrize("path", sorted(CONFIGURATION.glob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_of_the_project_can_be_parsed(path):
    model, data, args, settings = parse_recipe([str(path)])
    assert settings and set(settings) <= set(recipe_fields())
    for name, value in settings.items():
        [owner] = [part for part in (model, data, args) if name in type(part).__dataclass_fields__]
        assert getattr(owner, name) == value


def test_help_lists_every_field(capsys):
    with pytest.raises(SystemExit) as ended:
        parse_recipe(["--help"])
    told = capsys.readouterr().out
    assert ended.value.code == 0 and all(f"--{name} " in told for name in recipe_fields())
