"""Measure the images, operations and seconds that recipes need to reach 50 to 90 % zero-shot accuracy on CIFAR-10.

python -m benchmarks.speedrun configuration/cifar10.yaml benchmarks/seed_style.yaml --seeds 0 1 2 \
    --dataset DATA/wds_vtab-cifar10 --text_tower MODELS/minilm-l6-distilbert

The rules are in docs/speed_track.md. The validation split is measured `--evaluations` times during a run; the test
split is read once, at its end. A recipe enters with its own number of images, or with `--images`. The speedrun.json of
another process is included as it is, so that seeds can be trained side by side. Reported are images, operations (of
the matrix products of the forward and backward pass, as torch counts them; the optimizer's are left out: Muon adds 7 %
for `cifar10.yaml`) and seconds (of training, without measuring) at the first evaluation at or above a mark: means over
the seeds that reached it, and how many did.
"""

import json
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from statistics import mean, stdev

import torch
from torch.utils.flop_counter import FlopCounterMode

from modeling_clipscratch.cli.command_line import run_command
from modeling_clipscratch.evaluation.plots.figures import COLOURS, DASHES, MARKERS, new_figure, save_figure
from modeling_clipscratch.training.recipe.recipe import parse_recipe
from modeling_clipscratch.training.run import train
from modeling_clipscratch.training.trainer import ClipScratchTrainer

from .reporting import machine, parser_of, print_table, save_figures, tidy

MARKS = (0.5, 0.6, 0.7, 0.8, 0.9)
TRAINING_ROWS = 45_000


class Watch:
    """Record images seen, seconds of training and accuracy at each evaluation of a trainer."""

    def __init__(self):
        self.evaluations, self.operations = [], None
        self._began, self._measuring = None, 0.0

    def __enter__(self):
        self._step, self._evaluate = ClipScratchTrainer.training_step, ClipScratchTrainer.evaluate
        watch = self

        def training_step(trainer, *args, **kwargs):
            if watch._began is None:
                watch.operations = operations(trainer)
                watch._began = time.perf_counter()
            return watch._step(trainer, *args, **kwargs)

        def evaluate(trainer, *args, **kwargs):
            start = time.perf_counter()
            metrics = watch._evaluate(trainer, *args, **kwargs)
            seen = trainer.state.global_step * trainer.args.global_batch_size
            evaluation = {"images": seen, "top1": metrics["eval_top1"]}
            evaluation["seconds"] = start - watch._began - watch._measuring
            watch.evaluations.append(evaluation)
            print("{images:,} images, {seconds:,.0f} s: {top1:.1%} on validation".format(**evaluation), flush=True)
            watch._measuring += time.perf_counter() - start
            return metrics

        ClipScratchTrainer.training_step, ClipScratchTrainer.evaluate = training_step, evaluate
        return self

    def __exit__(self, *error):
        ClipScratchTrainer.training_step, ClipScratchTrainer.evaluate = self._step, self._evaluate


def operations(trainer) -> float:
    """Count the operations per image and caption, forward and backward."""
    inputs = trainer._prepare_inputs(trainer.train_pairs.largest_batch(8))
    with FlopCounterMode(display=False) as counter, trainer.compute_loss_context_manager():
        trainer.compute_loss(trainer.model, inputs).backward()
    trainer.model.zero_grad()
    return counter.get_total_flops() / 8


def attempt(recipe: str, seed: int, options, more: Sequence[str] = ()) -> dict:
    """Train once and return the evaluations and the test accuracy; `more` options override the recipe."""
    words = [recipe, "--seed", str(seed), "--output_dir", str(options.output / f"{Path(recipe).stem}-{seed}")]
    words += ["--overwrite_output_dir", "true", "--disable_tqdm", "true", "--save_strategy", "no", *more]
    for name in ("dataset", "text_tower"):
        words += [f"--{name}", getattr(options, name)] if getattr(options, name) else []
    batch = parse_recipe(words)[2].global_batch_size
    images = options.images or parse_recipe(words)[2].num_train_epochs * TRAINING_ROWS
    steps = round(images / batch)
    words += ["--max_steps", str(steps), "--eval_strategy", "steps"]
    words += ["--eval_steps", str(max(math.ceil(steps / options.evaluations), 1))]
    with Watch() as watch:
        metrics = train(*parse_recipe(words))
    [test] = metrics.values()
    run = {"recipe": recipe, "seed": seed, "images": steps * batch, "operations": watch.operations}
    return {**run, "evaluations": watch.evaluations, "test_top1": test["top1"]}


def to_mark(run: dict, mark: float) -> dict | None:
    """Return the first evaluation at or above a mark.

    >>> to_mark({"evaluations": [{"top1": 0.4}, {"top1": 0.6}]}, 0.5), to_mark({"evaluations": []}, 0.5)
    ({'top1': 0.6}, None)
    """
    return next((evaluation for evaluation in run["evaluations"] if evaluation["top1"] >= mark), None)


def table(runs: list[dict]) -> list[list[str]]:
    lines = []
    for mark in MARKS:
        found = [(run, to_mark(run, mark)) for run in runs]
        found = [(run, evaluation) for run, evaluation in found if evaluation is not None]
        if found:
            images = mean(evaluation["images"] for _, evaluation in found)
            work = mean(evaluation["images"] * run["operations"] for run, evaluation in found)
            seconds = mean(evaluation["seconds"] for _, evaluation in found)
            counted = f"{len(found)} of {len(runs)}"
            lines.append([f"{mark:.0%}", f"{images:,.0f}", f"{work / 1e12:,.0f}", f"{seconds:,.0f}", counted])
    return lines


def draw(entries: dict[str, list[dict]], path: Path) -> None:
    """Draw one line per entry: the mean of its seeds where they were evaluated after the same number of images."""
    figure = new_figure(7, 3.6)
    axes = figure.subplots()
    styles = zip(cycle(COLOURS), cycle(DASHES), cycle(MARKERS), strict=False)
    for (name, runs), (colour, dashes, marker) in zip(entries.items(), styles, strict=False):
        evaluations = zip(*(run["evaluations"] for run in runs), strict=False)
        evaluations = [evaluation for evaluation in evaluations if len({part["images"] for part in evaluation}) == 1]
        heights = [100 * mean(part["top1"] for part in evaluation) for evaluation in evaluations]
        images = [evaluation[0]["images"] / 1000 for evaluation in evaluations]
        axes.plot(images, heights, dashes, marker=marker, markersize=4, color=colour, label=name)
    tidy(axes, "Zero-shot on validation, towers from scratch", "thousand training images", "top-1, %")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    save_figure(figure, path)


def main(arguments: list[str]) -> None:
    parser = parser_of("speedrun")
    parser.add_argument("entries", nargs="+", help="recipe files, and speedrun.json files of other processes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--images", type=int, help="training images of each run; default: as in the recipe")
    parser.add_argument("--evaluations", type=int, default=20, help="of the validation split in a run")
    parser.add_argument("--dataset", help="path of CIFAR-10, if not on the Hub")
    parser.add_argument("--text_tower", help="in place of the text tower of the recipe")
    options = parser.parse_args(arguments)
    runs = []
    for entry in options.entries:
        if entry.endswith(".json"):
            runs += json.loads(Path(entry).read_text())["runs"]
            continue
        for seed in options.seeds:
            runs.append(attempt(entry, seed, options))
            save_figures(options.output / "speedrun.json", {"runs": runs})  # after each run: a stop loses one at most
    entries = defaultdict(list)
    for run in runs:
        entries[f"{Path(run['recipe']).name}, {run['images']:,} images"].append(run)
    for name, runs in entries.items():
        top1 = [run["test_top1"] for run in runs]
        spread = f", standard deviation {stdev(top1):.1%}" if len(top1) > 1 else ""
        seeds = ", ".join(str(run["seed"]) for run in runs)
        print(f"{name}: test top-1 {mean(top1):.1%}{spread}, seeds {seeds}")
        print_table(["validation at", "images", "TFLOP", "seconds", "seeds"], table(runs))
    draw(entries, options.output / "speedrun.png")
    print(f"{machine()}; {torch.get_num_threads()} threads")


if __name__ == "__main__":
    run_command(main)
