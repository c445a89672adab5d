"""Check that one run at a time writes to a folder, and that leftovers of a killed run lock nobody out."""

import multiprocessing
import os
import signal
from types import SimpleNamespace

import pytest

from modeling_clipscratch.training.saving import run_folder
from modeling_clipscratch.training.saving.run_folder import LOCK, begin_run_folder, check_run_folder, lock_run_folder

# Processes are forked from one that has imported what they need, but has no threads of torch.
START = multiprocessing.get_context("forkserver")
START.set_forkserver_preload(["modeling_clipscratch.training.run"])


def hold(folder, pipe):
    with lock_run_folder(folder):
        pipe.send("locked")
        pipe.poll(30)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(run_folder, "_PATIENCE", 0)


@pytest.fixture
def other_run(tmp_path):
    """A process that holds the lock of `run`, and the pipe whose end ends it."""
    pipe, its = START.Pipe()  # no Event: a process that is killed while it waits keeps that locked
    process = START.Process(target=hold, args=(tmp_path / "run", its))
    process.start()
    assert pipe.poll(30) and pipe.recv() == "locked"
    yield process, pipe
    if not pipe.closed:
        pipe.send("end")
    process.join(30)


@pytest.mark.parametrize("changes", [{"overwrite_output_dir": True}, {"resume_from_checkpoint": "auto"}])
def test_second_run_is_refused_and_changes_nothing(run_recipe, tmp_path, other_run, changes):
    process, _ = other_run
    with pytest.raises(ValueError, match="run is in use by another run; wait until it ends"):
        run_recipe(tmp_path, **changes)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK] and process.is_alive()
    with lock_run_folder(tmp_path / "run", writes=False):  # as all but one process of a run call it
        pass


def test_trainer_takes_the_lock_as_well(make_trainer, other_run):
    with pytest.raises(ValueError, match="is in use by another run"):
        make_trainer().train()


@pytest.mark.parametrize("end", ["returns", "is killed"])
def test_lock_is_free_after_a_run(tmp_path, other_run, end):
    process, pipe = other_run
    pipe.send("end") if end == "returns" else os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    pipe.close()
    with lock_run_folder(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK).is_file()


def test_lock_leaves_nothing_behind(tmp_path):
    with lock_run_folder(tmp_path / "a/b"):
        assert (tmp_path / "a/b" / LOCK).is_file()
    assert not (tmp_path / "a/b").exists()


def test_folder_that_cannot_be_written_to_is_found_before_anything_is_encoded(run_recipe, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((ValueError, OSError), match="file"):
        run_recipe(tmp_path / "recipe", output_dir=str(tmp_path / "file" / "run"))
    assert not (tmp_path / "recipe" / "cache").exists()


@pytest.mark.parametrize(
    "leftover",
    [
        "recipe.yaml.part",
        ".recipe.yaml-abcdefgh.part",
        ".new-abcdefgh.part/config.json",
        ".incomplete/checkpoint-3/model.safetensors",
        ".lock",
    ],
)
@pytest.mark.parametrize("resume", [False, True])
def test_what_a_killed_run_left_half_written_locks_nobody_out(tmp_path, leftover, resume):
    path = tmp_path / leftover
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    options = {"overwrite_output_dir": False, "resume_from_checkpoint": "auto" if resume else None}
    check_run_folder(SimpleNamespace(output_dir=tmp_path, **options), None)
    begin_run_folder(tmp_path, {"dataset": "digits"})
    assert {path.name for path in tmp_path.iterdir()} - {LOCK} == {"recipe.yaml"}
