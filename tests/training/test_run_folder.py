"""Begin, resume, refuse and overwrite folders in every state, with any recipe."""

import dataclasses
import json
from enum import Enum

import pytest
import yaml

from modeling_clipscratch.training.recipe.arguments import RECIPE_GROUPS, recipe_fields
from modeling_clipscratch.training.saving.checkpoints import find_checkpoint
from modeling_clipscratch.training.saving.run_folder import (
    OUR_CARD,
    begin_run_folder,
    check_recipe,
    check_run_folder,
    how_to_resume,
)
from modeling_clipscratch.utils.atomic_files import explaining_failures
from modeling_clipscratch.utils.checksums import write_sums

SETTINGS = {"dataset": "digits", "learning_rate": 0.001, "output_dir": "somewhere", "disable_tqdm": True}


def begin(folder, settings=SETTINGS, *, overwrite=False, resume=False):
    check_run_folder(folder, settings, overwrite=overwrite, resume=resume)
    begin_run_folder(folder, settings, resume=resume)


def contents(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def checkpoint():
    """(folder, step, model type) -> a checkpoint's folder, as far as it is looked at."""

    def make(folder, step=3, model_type="clipscratch"):
        path = folder / f"checkpoint-{step}"
        path.mkdir(parents=True)
        (path / "trainer_state.json").write_text("{}")
        (path / "config.json").write_text(json.dumps({"model_type": model_type}))
        write_sums(path)
        return path

    return make


def test_new_or_empty_folder_is_begun_with_its_recipe(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "a" / "b", tmp_path / "empty"):
        begin(folder)
        assert contents(folder) == {"recipe.yaml"}
        # Where the run lies and what it shows are no part of what was run.
        assert yaml.safe_load((folder / "recipe.yaml").read_text()) == {"dataset": "digits", "learning_rate": 0.001}


def test_folder_of_another_run_is_refused_and_left_alone(tmp_path):
    begin(tmp_path)
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match="holds another run; use --overwrite_output_dir to replace it, --resume"):
        begin(tmp_path, {"dataset": "scenes"})
    assert contents(tmp_path) == {"recipe.yaml", "metrics.json"}
    assert "digits" in (tmp_path / "recipe.yaml").read_text()


@pytest.mark.parametrize("overwrite", [False, True])
def test_folder_with_other_files_is_refused_also_where_it_may_be_overwritten(tmp_path, overwrite):
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "zebra").mkdir()
    with pytest.raises(ValueError, match=r"holds other files \(thesis.tex, ...\); use another output_dir"):
        begin(tmp_path, overwrite=overwrite)
    assert contents(tmp_path) == {"thesis.tex"}


def test_overwriting_deletes_what_a_run_wrote_and_nothing_else(tmp_path, checkpoint):
    begin(tmp_path)
    checkpoint(tmp_path)
    of_a_run = ["metrics.json", "model.safetensors", "config.json", "curves.png", "trainer_state.json", "README.md"]
    of_a_run += [".gitattributes", "merges.txt", "model-00001-of-00002.safetensors", ".incomplete/checkpoint-4/a"]
    of_a_run += ["runs/Nov30_host/events.out.tfevents.1.host.2", "runs/Nov29_host/trial/events.out.tfevents.1"]
    for name in (*of_a_run, "runs/mine/notes.txt", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(OUR_CARD)
    begin(tmp_path, {"dataset": "scenes"}, overwrite=True)
    assert contents(tmp_path) == {"recipe.yaml", "notes.txt", "runs/mine/notes.txt"}
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text()) == {"dataset": "scenes"}


# The recipe of a resumed run


def test_run_is_resumed_with_its_own_recipe_only(tmp_path):
    begin(tmp_path)
    begin(tmp_path, {**SETTINGS, "output_dir": "elsewhere", "disable_tqdm": False, "logging_steps": 5}, resume=True)
    with pytest.raises(ValueError, match="was trained with learning_rate=0.001, and now learning_rate=0.1 is asked"):
        begin(tmp_path, {**SETTINGS, "learning_rate": 0.1}, resume=True)
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text()) == {"dataset": "digits", "learning_rate": 0.001}


@pytest.fixture
def differs(tmp_path):
    """(settings of the run, settings now) -> the sentence that refuses them, or `None`."""

    def check(before, now):
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(before))
        try:
            check_recipe(tmp_path / "recipe.yaml", now, free=set())
        except ValueError as error:
            return str(error)

    return check


@pytest.mark.parametrize("text", ["", "a: [1", "\x00", "just words"])
def test_recipe_that_cannot_be_read_is_a_sentence(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"recipe.yaml (is not YAML|must be a flat list).* Copy the file from where"):
        begin(tmp_path, resume=True)


@pytest.mark.parametrize(
    ("field", "before", "now"),
    [
        ("projection_dim", 512, 8),
        ("loss", "softmax", "sigmoid"),
        ("global_batch_size", 256, 200),
        ("optim", "adamw_torch_fused", "sgd"),
        ("seed", 0, 1),
        ("random_shift", 0, 1),
        ("ema_decay", None, 0.5),
        ("templates", None, ["a {}."]),
    ],
)
def test_field_that_differs_is_named_with_both_values(differs, field, before, now):
    sentence = f"trained with {field}={before!r}, and now {field}={now!r} is asked for; resume with {field}={before!r}"
    for recipe in ({field: before}, {}):  # also where the default was not spelled out
        assert sentence in differs(recipe, {field: now})
    assert f"with {field}={now!r}, and now {field}={before!r}" in differs({field: now}, {})


def test_default_that_is_spelled_out_or_named_by_its_value_is_the_same_recipe(differs):
    """Of every field: 24 were refused by the value that `auto` or `None` stands for."""
    defaults = {
        name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for name, field in recipe_fields().items()
    }
    resolved = {name: value for group in RECIPE_GROUPS for name, value in vars(group()).items() if name in defaults}
    values = {name: value.value if isinstance(value, Enum) else value for name, value in resolved.items()}
    spelled = {name: value for name, value in defaults.items() if value not in ([], "")}  # no recipe spells these
    assert differs({}, spelled) is None and differs(spelled, {}) is None
    for name, value in values.items():
        if value != defaults[name] and isinstance(value, (str, int, float)):
            assert differs({}, {name: value}) is None and differs({name: value}, {}) is None
    assert differs({"global_batch_size": 64}, {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 4})
    assert differs({"encode_chunk_size": 64}, {"encode_chunk_size": "64"}) is None


# Checkpoints of a folder


def test_auto_finds_the_last_checkpoint_if_there_is_one(tmp_path, checkpoint):
    assert find_checkpoint(tmp_path / "nowhere", "auto") is None
    assert find_checkpoint(tmp_path, "auto") is None
    assert find_checkpoint(tmp_path, None) is None
    for step in (3, 12, 9):
        checkpoint(tmp_path, step)
    (tmp_path / ".incomplete" / "checkpoint-20").mkdir(parents=True)
    assert find_checkpoint(tmp_path, "auto") == find_checkpoint(tmp_path, "true") == str(tmp_path / "checkpoint-12")
    assert find_checkpoint(tmp_path, str(tmp_path / "checkpoint-3")) == str(tmp_path / "checkpoint-3")
    assert find_checkpoint(tmp_path, "false") is None


def test_half_made_checkpoint_is_passed_over_with_a_warning(tmp_path, checkpoint, caplog):
    checkpoint(tmp_path, 3)
    (tmp_path / "checkpoint-4").mkdir()  # as transformers' callback for SIGTERM left it
    (tmp_path / "checkpoint-4" / "checkpoint-is-incomplete.txt").write_text("")
    assert find_checkpoint(tmp_path, "auto") == str(tmp_path / "checkpoint-3")
    assert "checkpoint-4 is damaged and not used: its SHA256SUMS is missing" in caplog.text


def test_folder_that_is_no_checkpoint_of_ours_is_refused(tmp_path, checkpoint):
    with pytest.raises(ValueError, match="is no checkpoint; give the path of a checkpoint-N, or auto"):
        find_checkpoint(tmp_path, str(tmp_path))
    other = checkpoint(tmp_path, model_type="bert")
    with pytest.raises(ValueError, match="holds a model of type 'bert', not 'clipscratch'"):
        find_checkpoint(tmp_path, str(other))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (RuntimeError("unexpected pos 358656 vs 358544"), "unexpected pos 358656 vs 358544"),
    ],
)
def test_failed_write_names_the_folder_the_reason_and_the_remedy(tmp_path, checkpoint, error, reason):
    def sentence():
        explaining = explaining_failures(tmp_path, remedy=how_to_resume(tmp_path), also=(RuntimeError,))
        with pytest.raises(OSError) as refused, explaining:
            raise error
        return str(refused.value)

    assert sentence().startswith(f"{tmp_path} cannot be written ({reason}; ")
    assert sentence().endswith("no checkpoint was written yet: make room, then start again.")
    checkpoint(tmp_path)
    assert sentence().endswith("checkpoint-3 is complete: make room, then resume with --resume_from_checkpoint auto.")
