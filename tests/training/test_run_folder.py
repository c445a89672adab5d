"""Begin, resume, refuse and overwrite folders in every state, and find their checkpoints."""

from types import SimpleNamespace

import pytest
import yaml

from modeling_clipscratch.training.saving.checkpoints import find_checkpoint
from modeling_clipscratch.training.saving.run_folder import OUR_CARD, begin_run_folder, check_run_folder
from modeling_clipscratch.utils.checksums import write_sums

SETTINGS = {"dataset": "digits", "learning_rate": 0.001, "output_dir": "somewhere", "disable_tqdm": True}


def begin(folder, settings=SETTINGS, *, checkpoint=None, overwrite=False, resume=False):
    options = {"overwrite_output_dir": overwrite, "resume_from_checkpoint": "auto" if resume else None}
    check_run_folder(SimpleNamespace(output_dir=folder, **options), checkpoint)
    begin_run_folder(folder, settings, checkpoint)


def contents(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def checkpoint():
    """(folder, step) -> a checkpoint's folder, as far as it is looked at."""

    def make(folder, step=3):
        path = folder / f"checkpoint-{step}"
        path.mkdir(parents=True)
        (path / "trainer_state.json").write_text("{}")
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
    for name in (*of_a_run, "mine/notes.txt", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(OUR_CARD)
    begin(tmp_path, {"dataset": "scenes"}, overwrite=True)
    assert contents(tmp_path) == {"recipe.yaml", "notes.txt", "mine/notes.txt"}
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text()) == {"dataset": "scenes"}


@pytest.mark.parametrize(
    ("checkpoints", "result", "refused"), [(True, True, False), (False, True, True), (False, False, False)]
)
def test_resumed_folder_needs_a_checkpoint_unless_nothing_was_finished(
    tmp_path, checkpoint, checkpoints, result, refused
):
    begin(tmp_path)
    (tmp_path / "runs").mkdir()
    if result:
        (tmp_path / "config.json").write_text("{}")
    own = str(checkpoint(tmp_path)) if checkpoints else None
    if refused:
        with pytest.raises(ValueError, match="holds another run; use --overwrite_output_dir"):
            begin(tmp_path, checkpoint=own, resume=True)
    else:
        begin(tmp_path, checkpoint=own, resume=True)
    assert (tmp_path / "checkpoint-3").is_dir() == checkpoints and (tmp_path / "config.json").is_file() == result


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


def test_folder_that_is_no_checkpoint_is_refused(tmp_path, checkpoint):
    with pytest.raises(ValueError, match="is no checkpoint; give the path of a checkpoint-N, or auto"):
        find_checkpoint(tmp_path, str(tmp_path))
    inside = checkpoint(tmp_path)
    with pytest.raises(ValueError, match=f"is no checkpoint; give {inside}.$"):
        find_checkpoint(tmp_path, str(tmp_path))
