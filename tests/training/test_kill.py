"""Kill and stop real runs, and hold the weights of the resumed ones to those of uninterrupted ones."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modeling_clipscratch.training.saving.checkpoints import find_checkpoint
from tests.training.conftest import same, weights
from tests.training.kills import write_tars

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_run_ends_with_the_bits_of_the_straight_one(processes):
    """The short form; the long one is `python -m tests.training.kills`."""
    command = [sys.executable, "-m", "tests.training.kills", "--kills", "3", "--processes", str(processes)]
    done = subprocess.run(
        [*command, "--workers", "1"], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "3 kills" in done.stdout and "the same weights" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("streamed", "workers"), [(False, 1), (True, 2)])
def test_sigterm_leaves_a_whole_checkpoint_a_sentence_and_status_143(
    run_recipe, write_recipe, tmp_path, streamed, workers
):
    steps = {
        "freeze_text": False, "max_steps": 150, "save_strategy": "steps", "save_steps": 20, "eval_strategy": "no",
        "test_split": "none", "dataloader_num_workers": workers, "enable_jit_checkpoint": True,
        "resume_from_checkpoint": "auto", "per_device_train_batch_size": 100,
    }  # fmt: skip
    if streamed:
        write_tars(tmp_path / "tars", shards=2)
        steps |= {"dataset": str(tmp_path / "tars"), "streaming": True, "stream_shuffle_rows": 128}
    expected, _ = run_recipe(tmp_path / "straight", **steps)
    command = [sys.executable, "run_train.py", str(write_recipe(tmp_path / "stopped", **steps))]
    run = tmp_path / "stopped" / "run"
    process = subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not (run / "checkpoint-20").is_dir():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)  # the workers too, as a scheduler does
    assert process.wait(60) == 143
    assert process.stderr.read().splitlines()[-1].startswith("stopped by SIGTERM. To resume the run, add --resume")
    assert not (run / "config.json").exists() and not (run / ".incomplete").exists()
    checkpoint = Path(find_checkpoint(run, "auto"))
    assert 20 < int(checkpoint.name[11:]) < 150
    subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, check=True, capture_output=True, timeout=300)
    assert same(weights(run), weights(expected))
