"""A run that is killed at random moments and started again goes in; its weights are held to those of a straight run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_run_ends_with_the_bits_of_the_straight_one(processes):
    """The short form; the long one is `python -m tests.training.kills`."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.kills", "--kills", "3", "--processes", str(processes), "--workers", "1"],
        cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "3 kills" in done.stdout and "the same weights" in done.stdout
