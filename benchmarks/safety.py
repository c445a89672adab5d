"""Measure what is spent on checks: digests of checkpoints and feature caches, and finite losses and weights in a run.

python -m benchmarks.safety --checkpoint_mb 100 --cache_gb 1 --steps 200
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from modeling_clipscratch.training.features.feature_files import find_or_build
from modeling_clipscratch.training.optimization.step_values import LossWatch
from modeling_clipscratch.training.recipe.recipe import parse_recipe
from modeling_clipscratch.training.run import train
from modeling_clipscratch.training.trainer import ClipScratchTrainer
from modeling_clipscratch.utils.atomic_files import to_disk
from modeling_clipscratch.utils.checksums import find_damage, write_sums

from .reporting import REPOSITORY

WIDTH = 384


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


def measure_cache(folder: Path, gigabytes: float) -> None:
    """Rows of 384 float32 features, made by a function that costs nothing; a tower's pass comes on top."""
    rows = int(gigabytes * 1e9 / 4 / WIDTH)
    path, device = folder / "cache.safetensors", torch.device("cpu")
    options = {"device": device, "name": "rows", "unit": "row", "progress": False}

    def build():
        return find_or_build(path, rows, lambda start, stop, advance: torch.randn(stop - start, WIDTH), **options)

    built = seconds(build)
    reused = seconds(build)
    read = seconds(lambda: find_or_build(path, rows, None, **options)[0].sum())
    print(
        f"cache of {path.stat().st_size / 1e9:.2f} GB: built in {built:.2f} s, checked on reuse in {reused:.2f} s; ",
        end="",
    )
    print(f"checked and read once in {read:.2f} s")


def measure_losses(folder: Path, steps: int) -> None:
    """Train on the digits, whose steps are short, so that the share is larger than elsewhere; a save each 50 steps."""
    spent = dict.fromkeys(("add", "check", "check_finite", "train_from"), 0.0)

    def timed(owner, name):
        own = getattr(owner, name)

        def call(*args, **kwargs):
            start = time.perf_counter()
            result = own(*args, **kwargs)
            spent[name] += time.perf_counter() - start
            return result

        setattr(owner, name, call)

    watched = [(LossWatch, "add"), (LossWatch, "check")]
    watched += [(ClipScratchTrainer, "check_finite"), (ClipScratchTrainer, "train_from")]
    for owner, name in watched:
        timed(owner, name)
    options = ["--max_steps", str(steps), "--eval_strategy", "no", "--save_strategy", "steps", "--save_steps", "50"]
    options += ["--output_dir", str(folder / "run"), "--cache_dir", str(folder), "--disable_tqdm", "true"]
    train(*parse_recipe([str(REPOSITORY / "configuration" / "digits.yaml"), *options]))
    step, checks, saved = spent["train_from"] / steps, (spent["add"] + spent["check"]) / steps, spent["check_finite"]
    print(f"{steps} steps of {1e3 * step:.1f} ms: watching the losses takes {1e6 * checks:.0f} us of each ", end="")
    print(f"({checks / step:.2%}), looking at weights and losses before a save {1e3 * saved / (steps / 50):.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint_mb", type=int, default=100)
    parser.add_argument("--cache_gb", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a").mkdir()
        measure_checkpoint(Path(folder) / "a", options.checkpoint_mb)
        measure_cache(Path(folder), options.cache_gb)
        measure_losses(Path(folder), options.steps)


if __name__ == "__main__":
    main()
