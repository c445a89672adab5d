"""Measure recall@10 by batch size and learning rate, for the same number of images seen.

python -m benchmarks.batch_size --dataset clip-benchmark/wds_flickr8k

Trains `configuration/flickr8k.yaml` (both towers frozen, their features cached, two heads trained), one run after the
other in this process. All see the same number of images: steps = epochs x rows / batch, so a batch of 6,000 takes 30
steps where one of 256 takes 703. The last weights are measured, without a choice among checkpoints (the recipe takes
the best of thirty, so its figure is slightly higher). Warm-up and cosine are fractions of each run.

The best learning rate depends on the batch. So each batch is trained at every rate of a small grid, and two curves are
drawn: at the rate of the recipe, and at the best rate for each batch. "Best" is the highest mean over both directions
and all seeds on validation, which is also what is shown, so that curve is slightly optimistic. A best rate at an end of
the grid is marked, because the true one may lie outside.

Runs that are already in `--output` are not repeated.
"""

import json
import logging
import statistics
import time
from pathlib import Path

from modeling_clipscratch.cli.command_line import run_command
from modeling_clipscratch.data.load import load_data
from modeling_clipscratch.evaluation.plots.figures import BLUE, VERMILLION, new_figure, save_figure
from modeling_clipscratch.training.recipe.recipe import parse_recipe, read_recipe
from modeling_clipscratch.training.run import train

from .reporting import REPOSITORY, machine, parser_of, print_table, save_figures, tidy

RECIPE = REPOSITORY / "configuration" / "flickr8k.yaml"
SOURCES = ("dataset", "text_tower", "vision_tower")
WAYS = {"image_to_text_recall@10": "image to text", "text_to_image_recall@10": "text to image"}


def run(folder, options, rows, batch, rate, seed):
    """Return {metric: value} on validation; train the run if it is not there."""
    written = folder / "metrics.json"
    if not written.is_file():
        steps = max(1, round(options.epochs * rows / batch))
        arguments = [str(RECIPE), "--output_dir", str(folder), "--global_batch_size", str(batch)]
        arguments += ["--learning_rate", str(rate), "--seed", str(seed), "--max_steps", str(steps)]
        arguments += ["--eval_strategy", "no", "--save_strategy", "no", "--test_split", "none"]
        arguments += ["--logging_steps", str(max(1, steps // 30)), "--disable_tqdm", "true"]
        arguments += ["--overwrite_output_dir", "true"]  # a run that was interrupted starts again
        for name in (*SOURCES, "cache_dir"):
            if getattr(options, name) is not None:
                arguments += [f"--{name}", getattr(options, name)]
        began = time.perf_counter()
        train(*parse_recipe(arguments))
        print(f"{folder.name}: {steps} steps, {time.perf_counter() - began:.0f} s", flush=True)
    made = read_recipe(folder / "recipe.yaml")
    for name in SOURCES:
        if getattr(options, name) not in (None, made[name]):
            raise ValueError(f"{folder} was made with another {name}; choose another --output.")
    [metrics] = json.loads(written.read_text()).values()
    return {name: metrics[name] for name in WAYS}


def summary(runs):
    """Return {metric: (mean, standard deviation)} over the runs of all seeds."""
    columns = {name: [metrics[name] for metrics in runs] for name in WAYS}
    return {name: (statistics.mean(v), statistics.stdev(v) if len(v) > 1 else 0.0) for name, v in columns.items()}


def best_rate(by_rate):
    return max(by_rate, key=lambda rate: sum(mean for mean, _ in by_rate[rate].values()))


def plot(found, rate, seeds, path):
    """A panel a direction: the curve at the recipe's rate, and the one at each batch's best."""
    figure = new_figure(10, 3.8)
    batches = list(found)
    for axes, (name, way) in zip(figure.subplots(1, 2), WAYS.items(), strict=True):
        curves = [("best rate of each batch", BLUE, "-", "o", [found[b][best_rate(found[b])][name] for b in batches])]
        if all(rate in found[b] for b in batches):
            at_recipe = [found[b][rate][name] for b in batches]
            curves.append((f"the recipe's rate, {rate:g}", VERMILLION, "--", "s", at_recipe))
        for number, (label, colour, dashes, marker, points) in enumerate(curves):
            means, spreads = ([100 * value for value in column] for column in zip(*points, strict=True))
            places = [batch * (1 + 0.03 * number) for batch in batches]  # so that the bars do not overlap
            axes.errorbar(
                places, means, yerr=spreads, color=colour, linestyle=dashes, marker=marker, markersize=5, capsize=3,
                linewidth=1.4, label=label,
            )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xticks(batches, [f"{batch:,}" for batch in batches])
        tidy(axes, f"{way}, recall@10 on validation", "pairs in the global batch", "%")
        axes.margins(x=0.06, y=0.15)
        axes.legend(fontsize=8, frameon=False, handlelength=3.2, title=f"mean of {seeds} seeds, bars: 1 s.d.",
                    title_fontsize=8, loc="best")  # fmt: skip
    save_figure(figure, path)


def main(arguments: list[str]) -> None:
    parser = parser_of("batch_size")
    for name in SOURCES:
        parser.add_argument(f"--{name}", help="default: the recipe's")
    parser.add_argument("--cache_dir")
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096, 6000])
    parser.add_argument("--learning_rates", type=float, nargs="+", default=[5e-4, 1e-3, 2e-3, 4e-3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=30)
    options = parser.parse_args(arguments)
    recipe = read_recipe(RECIPE)
    logging.getLogger("modeling_clipscratch").setLevel(logging.WARNING)  # ten lines a run
    rows = len(load_data(options.dataset or recipe["dataset"], splits=["train"])["train"])
    batches = [batch for batch in options.batches if batch <= rows]
    if len(batches) < len(options.batches):
        print(f"{rows:,} training rows: larger batches are left out")
    print(machine())
    found = {}
    for batch in batches:
        found[batch] = {}
        for rate in sorted(options.learning_rates):
            folder = options.output / "batch_size" / f"{options.epochs:g}-epochs-batch-{batch}-rate-{rate:g}"
            made = [run(Path(f"{folder}-seed-{s}"), options, rows, batch, rate, s) for s in options.seeds]
            found[batch][rate] = summary(made)
    best = {batch: best_rate(by_rate) for batch, by_rate in found.items()}
    rates = sorted(options.learning_rates)
    table = []
    for batch, by_rate in found.items():
        for rate, metrics in by_rate.items():
            mark = "" if rate != best[batch] else "best, end of the grid" if rate in (rates[0], rates[-1]) else "best"
            cells = [f"{100 * mean:.1f} ± {100 * spread:.1f}" for mean, spread in metrics.values()]
            steps = max(1, round(options.epochs * rows / batch))
            table.append([f"{batch:,}", str(steps), f"{rate:g}", *cells, mark])
    print(f"\nrecall@10 on validation in %, mean ± standard deviation of seeds {options.seeds}, "
          f"{options.epochs * rows:,.0f} images seen; the recipe's rate is {recipe['learning_rate']:g}")  # fmt: skip
    print_table(["batch", "steps", "learning rate", *WAYS.values(), ""], table)
    figures = {"epochs": options.epochs, "seeds": options.seeds, "rows": rows, "recall@10": found, "best_rate": best}
    save_figures(options.output / "batch_size.json", figures)
    plot(found, recipe["learning_rate"], len(options.seeds), options.output / "batch_size.png")


if __name__ == "__main__":
    run_command(main)
