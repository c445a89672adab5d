"""Folders in every state go in; which are begun, gone on with, refused or emptied is checked."""

import json

import pytest
import yaml

from modeling_clipscratch.training.saving.checkpoints import find_checkpoint
from modeling_clipscratch.training.saving.run_folder import begin_run_folder, check_run_folder, saying_what_failed
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
    for folder in (tmp_path / "a" / "b", tmp_path / "empty"):
        begin(folder)
        assert contents(folder) == {"recipe.yaml"}
        # Where the run lies and how it talks are no part of what was run.
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


def test_overwriting_keeps_nothing_of_the_old_run(tmp_path, checkpoint):
    begin(tmp_path)
    checkpoint(tmp_path)
    for name in ("metrics.json", "model.safetensors", "config.json", "curves.png", "trainer_state.json"):
        (tmp_path / name).write_text("old")
    (tmp_path / ".incomplete" / "checkpoint-4").mkdir(parents=True)
    begin(tmp_path, {"dataset": "scenes"}, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.yaml"}
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text()) == {"dataset": "scenes"}


def test_overwriting_spares_files_that_no_run_wrote(tmp_path):
    begin(tmp_path)
    (tmp_path / "notes.txt").write_text("what I saw in this run")
    begin(tmp_path, {"dataset": "scenes"}, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "what I saw in this run"


def test_overwriting_deletes_the_events_of_tensorboard_and_nothing_else_of_its_folder(tmp_path):
    begin(tmp_path)
    for name in ("runs/Nov30_host/events.out.tfevents.1.host.2", "runs/Nov29_host/trial/events.out.tfevents.1"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("")
    (tmp_path / "runs/mine").mkdir()
    (tmp_path / "runs/mine/notes.txt").write_text("")
    begin(tmp_path, {"dataset": "scenes"}, overwrite=True)
    assert sorted(path.name for path in tmp_path.glob("runs/**/*")) == ["mine", "notes.txt"]


def test_run_goes_on_with_its_own_recipe_only(tmp_path):
    begin(tmp_path)
    begin(tmp_path, {**SETTINGS, "output_dir": "elsewhere", "disable_tqdm": False, "logging_steps": 5}, resume=True)
    with pytest.raises(
        ValueError,
        match="was trained with learning_rate=0.001, and now learning_rate=0.1 is asked",
    ):
        begin(tmp_path, {**SETTINGS, "learning_rate": 0.1}, resume=True)
    with pytest.raises(ValueError, match="was trained with loss='softmax', and now loss='sigmoid' is asked for"):
        begin(tmp_path, {**SETTINGS, "loss": "sigmoid"}, resume=True)
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text()) == {"dataset": "digits", "learning_rate": 0.001}


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


def test_folder_that_is_no_checkpoint_of_ours_is_refused(tmp_path, checkpoint):
    with pytest.raises(ValueError, match=r"is no checkpoint folder \(no trainer_state.json\); try auto"):
        find_checkpoint(tmp_path, str(tmp_path))
    other = checkpoint(tmp_path, model_type="bert")
    with pytest.raises(ValueError, match="holds a model of type 'bert', not 'clipscratch'"):
        find_checkpoint(tmp_path, str(other))
    (other / "config.json").unlink()
    with pytest.raises(ValueError, match="holds a model of type None"):
        find_checkpoint(tmp_path, str(other))


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), RuntimeError("unexpected pos 358656 vs 358544")],
)
def test_failed_write_names_the_folder_the_reason_and_the_remedy(tmp_path, error):
    with pytest.raises(OSError) as said, saying_what_failed(tmp_path):
        raise error
    sentence = str(said.value)
    assert sentence.startswith(f"writing to {tmp_path} failed ({type(error).__name__}: ") and " MB free); " in sentence
    assert (
        sentence.endswith("no checkpoint was written yet: make room, then start again.")
        and said.value.__cause__ is error
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("a mistake"), TypeError("a bug")])
def test_other_errors_pass_as_they_are(tmp_path, error):
    with pytest.raises(type(error)) as said, saying_what_failed(tmp_path):
        raise error
    assert said.value is error
