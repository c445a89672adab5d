"""Measure what is spent on checks: digests of checkpoints, and finite losses and weights in a run.

python -m benchmarks.safety --checkpoint_mb 100 --steps 200
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from modeling_clipscratch.training.recipe.recipe import parse_recipe
from modeling_clipscratch.training.run import train
from modeling_clipscratch.training.trainer import ClipScratchTrainer
from modeling_clipscratch.utils.atomic_files import to_disk
from modeling_clipscratch.utils.checksums import find_damage, write_sums

from .reporting import REPOSITORY


def seconds(action) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measure_checkpoint(folder: Path, megabytes: int) -> None:
    """A third of the bytes are weights, two thirds the moments of AdamW, as in a run that trains all weights."""
    weights = {"weight": torch.randn(megabytes * 10**6 // 12)}
    moments = {"exp_avg": weights["weight"].clone(), "exp_avg_sq": weights["weight"].clone()}
    (folder / "config.json").write_text('{"model_type": "clipscratch"}')

    def write():
        save_file(weights, folder / "model.safetensors")
        torch.save(moments, folder / "optimizer.pt")
        to_disk(folder)

    written, summed = seconds(write), seconds(lambda: write_sums(folder))
    checked = seconds(lambda: print(f"  problem: {find_damage(folder)}"))
    print(f"checkpoint of {megabytes} MB: written in {written:.2f} s, digests made in {summed:.2f} s ", end="")
    print(f"({summed / written:.0%} of writing), checked on resume in {checked:.2f} s")


def measure_losses(folder: Path, steps: int) -> None:
    """Train on the digits, whose steps are short, so that the share is larger than elsewhere; a save each 50 steps."""
    spent = dict.fromkeys(("_check_finite", "train_from"), 0.0)

    def timed(owner, name):
        own = getattr(owner, name)

        def call(*args, **kwargs):
            start = time.perf_counter()
            result = own(*args, **kwargs)
            spent[name] += time.perf_counter() - start
            return result

        setattr(owner, name, call)

    for name in spent:
        timed(ClipScratchTrainer, name)
    options = ["--max_steps", str(steps), "--eval_strategy", "no", "--save_strategy", "steps", "--save_steps", "50"]
    options += ["--output_dir", str(folder / "run"), "--cache_dir", str(folder), "--disable_tqdm", "true"]
    train(*parse_recipe([str(REPOSITORY / "configuration" / "digits.yaml"), *options]))
    step, checks = spent["train_from"] / steps, spent["_check_finite"] / (steps / 50)
    print(f"{steps} steps of {1e3 * step:.1f} ms; looking at weights and losses takes {1e3 * checks:.1f} ms a save")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint_mb", type=int, default=100)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a").mkdir()
        measure_checkpoint(Path(folder) / "a", options.checkpoint_mb)
        measure_losses(Path(folder), options.steps)


if __name__ == "__main__":
    main()
