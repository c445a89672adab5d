"""Time a training step of ClipScratch beside the usual implementations, the best step by hand and the peak rate.

python -m benchmarks.train_step --regime 32     # ViT 192 wide, 6 layers, patch 4, 32 x 32 pixels, batch 256
python -m benchmarks.train_step --regime 224    # ViT-B/16 at 224 pixels, batch 16

The implementations (`step_contestants.py`) are timed in turn, `--rounds` times, by the wall clock from the start of
one step to the start of another, after two steps to warm up; reported are medians, and medians of the ratios of each
round. ClipScratch is a whole training run with logging and augmentation; its text features are cached, as by default.
"By hand" is the arithmetic alone: images and text features in memory, the same augmentation, fused AdamW, the same
precision and attention. The data are the digits, resized, without decoding, which favours implementations that read
item by item.

MFU is the share of the peak of matrix products, measured in the same run: operations of a step by hand, as torch counts
them, over the time. Memory is the highest resident size of a process (Linux) minus that before its first step.
`--fields muon_learning_rate=0.01` shows the cost of a field of the recipe.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from modeling_clipscratch.cli.command_line import quiet_libraries, run_command
from modeling_clipscratch.data.batches.map_batches import PairDataset
from modeling_clipscratch.data.images.augment import Augment
from modeling_clipscratch.training.optimization.device import choose_precision, no_accelerator
from modeling_clipscratch.training.trainer import ClipScratchTrainer

from . import step_contestants as ways
from .memory import memory_of_process
from .reporting import REPOSITORY, machine, parser_of, print_table, save_figures

REGIMES = {
    "32": {"image_size": 32, "patch_size": 4, "width": 192, "layers": 6, "heads": 3, "batch": 256},
    "224": {"image_size": 224, "patch_size": 16, "width": 768, "layers": 12, "heads": 12, "batch": 16},
}
STEPS = {"32": 10, "224": 3}
OURS, HAND = "ClipScratch", "by hand"
WAYS = {
    OURS: ways.clipscratch,
    HAND: ways.by_hand,
    "by hand, transformers' eager": partial(ways.by_hand, attention="eager"),
    "seed loop, 128 tokens": partial(ways.seed_loop, padding="max_length"),
    "seed loop, longest": partial(ways.seed_loop, padding="longest"),
    "VisionTextDualEncoder + Trainer": ways.dual_encoder_trainer,
}


def matmul_peak(dtype: torch.dtype) -> float:
    """Return the operations per second of a square matrix product, the best of eight tries."""
    device, edge, row = ("cpu", 2048, 1) if no_accelerator() else (torch.accelerator.current_accelerator(), 8192, 8)
    a, b = (torch.randn(edge, edge, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        start = ways.now()
        for _ in range(row):
            product = a @ b  # noqa: F841, only its time counts
        best = min(best, ways.now() - start)
    return 2 * edge**3 * row / best


def operations(regime: ways.Regime) -> int:
    """Count the operations of one step by hand, forward and backward."""
    step = ways.hand_step(regime)
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def parts_of_a_step(regime: ways.Regime, steps: int, **fields) -> dict[str, float]:
    """Return the seconds of a step of ClipScratch by part; for CPUs, where every call waits for its result."""
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer

    owners = {
        "data": (PairDataset, "__getitems__"), "augmentation": (Augment, "__call__"),
        "forward and loss": (ClipScratchTrainer, "compute_loss"), "backward": (Accelerator, "backward"),
        "clipping": (Accelerator, "clip_grad_norm_"), "optimizer": (AcceleratedOptimizer, "step"),
        "logging": (ClipScratchTrainer, "log"),
    }  # fmt: skip
    calls = {part: [] for part in owners}
    with contextlib.ExitStack() as stack:
        for part, (owner, name) in owners.items():
            stack.enter_context(_timed(owner, name, calls[part]))
        start, end = ways.steps_of_clipscratch(regime, steps, **fields)
    each = {part: sum(spent for began, spent in made if start <= began < end) / steps for part, made in calls.items()}
    each["forward and loss"] -= each["augmentation"]  # augmentation runs inside compute_loss
    whole = (end - start) / steps
    return {**each, "rest": whole - sum(each.values()), "whole": whole}


@contextlib.contextmanager
def _timed(owner, name, calls):
    method = getattr(owner, name)

    def timed(*args, **kwargs):
        start = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            calls.append((start, time.perf_counter() - start))

    setattr(owner, name, timed)
    try:
        yield
    finally:
        setattr(owner, name, method)


def memory_of(way: str, options) -> int:
    """Return the bytes that the steps of an implementation add to a process of its own."""
    command = [sys.executable, "-m", "benchmarks.train_step", "--regime", options.regime, "--memory_of", way]
    command += ["--batch", str(options.batch)] if options.batch else []
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def print_memory(way: str, regime: ways.Regime) -> None:
    before = []
    if way == OURS:
        step = ClipScratchTrainer.training_step

        def first(self, *args, **kwargs):
            before[:] = before or [memory_of_process("VmRSS")]
            return step(self, *args, **kwargs)

        ClipScratchTrainer.training_step = first
        ways.clipscratch(regime, 3)
    else:
        step = ways.hand_step(regime)
        before.append(memory_of_process("VmRSS"))
        for _ in range(6):
            step()
    print(memory_of_process("VmHWM") - before[0])


def main(arguments: list[str]) -> None:
    parser = parser_of("train_step")
    parser.add_argument("--regime", choices=REGIMES, default="32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="timed steps per round")
    parser.add_argument("--batch", type=int, help="pairs per step")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--fields", nargs="+", default=[], metavar="NAME=VALUE", help="fields of the recipe")
    parser.add_argument("--memory_of", choices=(OURS, HAND), help="only print the memory of one of the two")
    options = parser.parse_args(arguments)
    options.fields = dict(field.split("=", 1) for field in options.fields)
    sizes = {**REGIMES[options.regime], **({"batch": options.batch} if options.batch else {})}
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        regime = ways.make_regime("digits", Path(folder), **sizes)
        if options.memory_of:
            return print_memory(options.memory_of, regime)
        compare(regime, options)


def compare(regime: ways.Regime, options) -> None:
    steps = options.steps or STEPS[options.regime]
    precision = choose_precision(use_cpu=no_accelerator())
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
    work = operations(regime) / regime.batch
    contestants = {way: partial(WAYS[way], **(options.fields if way == OURS else {})) for way in options.ways}
    rounds = []
    for _ in range(options.rounds):
        peak = matmul_peak(dtype)
        rates = {way: regime.batch * steps / run(regime, steps) for way, run in contestants.items()}
        rounds.append({**rates, "peak": peak})
    rate = {way: median(each[way] for each in rounds) for way in rounds[0]}
    print(f"{machine()}; {precision}, peak {rate['peak'] / 1e9:,.0f} GFLOP/s; {work / 1e9:.2f} GFLOP per image")
    rows = []
    for way in options.ways:
        against = {
            other: f"{median(each[way] / each[other] for each in rounds):.3f}" if other in options.ways else "-"
            for other in (HAND, OURS)
        }
        mfu = median(each[way] * work / each["peak"] for each in rounds)
        rows.append([way, f"{rate[way]:.1f}", against[HAND], against[OURS], f"{mfu:.1%}"])
    print_table(["implementation", "images/s", "relative to by hand", "to ClipScratch", "MFU"], rows)
    figures = {"regime": options.regime, "fields": options.fields, "precision": precision}
    figures |= {"operations": work, "rounds": rounds}
    if OURS in options.ways and no_accelerator():
        figures["parts"] = parts_of_a_step(regime, steps, **options.fields)
        whole = figures["parts"]["whole"]
        lines = [[part, f"{1000 * s:.1f}", f"{s / whole:.1%}"] for part, s in figures["parts"].items()]
        print_table(["part of a step of ClipScratch", "ms", "share"], lines)
    if {OURS, HAND} <= set(options.ways) and sys.platform == "linux" and no_accelerator():  # memory of the host
        figures["memory"] = {way: memory_of(way, options) for way in (OURS, HAND)}
        ours, hand = figures["memory"].values()
        print(f"memory of the steps: {ours / 1e6:.0f} MB, by hand {hand / 1e6:.0f} MB, ratio {ours / hand:.2f}")
    save_figures(options.output / f"train_step_{options.regime}.json", figures)


if __name__ == "__main__":
    run_command(main)
