"""A `Result` of class data goes in; sheets of its pictures with what the model made of them come out as PNGs."""

from pathlib import Path

import numpy as np

from ..evaluate_dataset import Result
from .figures import BLUE, VERMILLION, WIDTH, new_figure, save_figure, shortened, show, spread, title

COLUMNS = 5
LINES = 4  # of the sheet of ordinary pictures
LINE = 2.03  # inches
BAND = 2  # lines of the surest hits, and of the worst misses


def plot_examples(result: Result, path: str | Path) -> None:
    """The ordinary case: pictures spread evenly over the rows, not chosen by how good they look.

    Args:
        result: of `evaluate_dataset`.
        path: the PNG.
    """
    chosen = spread(np.arange(len(result.dataset)), COLUMNS * LINES)
    hits = int((result.predicted[chosen] == result.outcomes.labels[chosen]).sum())
    lines = -(-len(chosen) // COLUMNS)
    figure = new_figure(WIDTH, LINE * lines + 0.4)
    title(figure, f"{len(chosen)} of {len(result.dataset):,} pictures, evenly spread: {hits} right")
    _draw(figure, result, chosen, lines)
    save_figure(figure, path)


def plot_extremes(result: Result, path: str | Path) -> None:
    """Above: right where the model was surest, the classes in turn. Below: wrong where it was surest.

    Args, as of `plot_examples`.
    """
    hits, misses = surest(result)
    bands = [
        (hits, "right, and surest of it (the classes in turn)"),
        (misses, "wrong, and surest of it: the worst misses"),
    ]
    bands = [(rows, text, -(-len(rows) // COLUMNS)) for rows, text in bands if rows]
    heights = [LINE * count + 0.35 for _, _, count in bands]
    figure = new_figure(WIDTH, sum(heights))
    parts = np.atleast_1d(figure.subfigures(len(bands), 1, height_ratios=heights))
    for part, (rows, text, count) in zip(parts, bands, strict=True):
        title(part, text, x=0.01, ha="left")
        _draw(part, result, rows, count)
    save_figure(figure, path)


def surest(result: Result, most: int = COLUMNS * BAND) -> tuple[list[int], list[int]]:
    """Rows of the surest hits and of the surest misses, surest first.

    The hits take the classes in turn, since the surest ones are often all of one class; the misses are as they come.
    """
    labels = result.outcomes.labels
    order = np.argsort(-result.confidence, kind="stable")
    hit = result.predicted == labels
    seen, turns = {}, []
    for row in order[hit[order]]:
        seen[labels[row]] = seen.get(labels[row], 0) + 1
        turns.append((seen[labels[row]], -result.confidence[row], int(row)))
    hits = [row for _, _, row in sorted(turns)[:most]]
    return hits, order[~hit[order]][:most].tolist()


def _draw(figure, result, chosen, lines):
    labels, names = result.outcomes.labels, result.class_names
    for place, row in enumerate(chosen, start=1):
        axes = figure.add_subplot(lines, COLUMNS, place)
        hit = result.predicted[row] == labels[row]
        colour = BLUE if hit else VERMILLION
        show(axes, result.read_image(int(row)), colour, "-" if hit else "--")
        said = f"{'✓' if hit else '✗'} {shortened(names[result.predicted[row]], 14)}, {result.confidence[row]:.0%}"
        axes.set_title(said, fontsize=9, color=colour, parse_math=False)
        truth = "" if hit else f"is {shortened(names[labels[row]], 17)}"
        axes.set_xlabel(truth, fontsize=9, parse_math=False)
