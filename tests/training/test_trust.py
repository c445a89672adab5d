"""A checkpoint with a stranger's pickles goes in; a run that goes on from it unpickles none of them."""

import pickle
import shutil
from pathlib import Path

import pytest
import torch

STEPS = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "eval_strategy": "no", "test_split": "none"}


class Stranger:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture(scope="module")
def checkpoint(run_recipe, tmp_path_factory):
    run, _ = run_recipe(tmp_path_factory.mktemp("trust"), **STEPS)
    return run / "checkpoint-1"


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
def test_no_pickle_of_a_checkpoint_runs(checkpoint, run_recipe, tmp_path, file):
    mark, folder = tmp_path / "it-ran", tmp_path / "given" / checkpoint.name
    shutil.copytree(checkpoint, folder)
    assert (folder / file).is_file() == (file != "training_args.bin")  # which is not even kept
    torch.save({"stranger": Stranger(mark)}, folder / file)
    go_on = {**STEPS, "resume_from_checkpoint": str(folder)}
    if file == "training_args.bin":
        run_recipe(tmp_path / "new", **go_on)
    else:
        with pytest.raises(pickle.UnpicklingError, match="weights_only"):
            run_recipe(tmp_path / "new", **go_on)
    assert not mark.exists()
    torch.load(folder / file, weights_only=False)
    assert mark.exists()  # else this test could not fail
