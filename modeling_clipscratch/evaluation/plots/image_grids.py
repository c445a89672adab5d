"""Show images with their predictions, and searches with their answers."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from ...data.dataset import ImageReader
from ..evaluate_dataset import Result
from ..metrics.zero_shot import cosines
from ..report.metric_tables import percent
from .figures import BLUE, VERMILLION, WIDTH, new_figure, save_figure, shortened, show, spread, title

COLUMNS = 5
MOST_IMAGES = 10  # of a grid of predictions
SEARCHES = 6  # of a grid of answers


def plot_predictions(result: Result, rows: Sequence[int], heading: str, path: str | Path) -> None:
    """Show images of class data with the predicted class, its confidence and, for a mistake, the true class.

    Without rows, no file is written.
    """
    if len(rows) == 0:
        return
    labels, names, confidence = result.outcomes.labels, result.class_names, result.outcomes.confidence
    lines, read_image = -(-len(rows) // COLUMNS), ImageReader(result.dataset)
    figure = new_figure(WIDTH, 2.03 * lines + 0.4)
    title(figure, heading)
    for place, row in enumerate(rows, start=1):
        axes = figure.add_subplot(lines, COLUMNS, place)
        hit = result.predicted[row] == labels[row]
        colour, sign = (BLUE, "✓") if hit else (VERMILLION, "✗")
        show(axes, read_image(int(row)), colour, "-" if hit else "--")
        predicted = f"{sign} {shortened(names[result.predicted[row]], 12)}, {percent(confidence[row], 0)}"
        axes.set_title(predicted, fontsize=9, color=colour, parse_math=False)
        if not hit:
            axes.set_xlabel(f"is {shortened(names[labels[row]], 17)}", fontsize=9, parse_math=False)
    save_figure(figure, path)


def plot_hits(result: Result, path: str | Path) -> None:
    """Show the right predictions with the highest confidence, the classes in turn."""
    labels, seen, turns = result.outcomes.labels, {}, []
    order = np.argsort(-result.outcomes.confidence, kind="stable")
    for place, row in enumerate(order[result.predicted[order] == labels[order]]):
        seen[labels[row]] = seen.get(labels[row], 0) + 1
        turns.append((seen[labels[row]], place, row))
    rows = [row for _, _, row in sorted(turns)[:MOST_IMAGES]]
    plot_predictions(result, rows, "right, with the highest confidence (the classes in turn)", path)


def plot_misses(result: Result, path: str | Path) -> None:
    """Show the mistakes with the highest confidence."""
    order = np.argsort(-result.outcomes.confidence, kind="stable")
    wrong = order[result.predicted[order] != result.outcomes.labels[order]]
    plot_predictions(result, wrong[:MOST_IMAGES], "wrong, with the highest confidence", path)


def plot_answers(result: Result, captions: Sequence[int], heading: str, path: str | Path) -> None:
    """Show captions with their closest images; their own image is framed, and last if it is not among them.

    Without captions, no file is written.
    """
    if len(captions) == 0:
        return
    outcomes, read_image = result.outcomes, ImageReader(result.dataset)
    texts = list(chain.from_iterable(result.dataset["captions"][:]))
    scores = cosines(result.text_embeds[captions], result.image_embeds)
    best = scores.topk(min(COLUMNS, len(outcomes))).indices.tolist()
    figure = new_figure(WIDTH, 1.95 * len(captions) + 0.4)
    title(figure, heading)
    for band, caption, rows in zip(np.atleast_1d(figure.subfigures(len(captions), 1)), captions, best, strict=True):
        own = int(outcomes.caption_to_image[caption])
        band.suptitle(shortened(texts[caption], 110), fontsize=9.5, x=0.01, ha="left", parse_math=False)
        shown = [(row, f"✓ {place}" if row == own else f"{place}") for place, row in enumerate(rows, start=1)]
        if own not in rows:
            shown[-1] = (own, f"✗ {outcomes.text_ranks[caption]:,} of {len(outcomes):,}")
        for place, (row, below) in enumerate(shown, start=1):
            axes = band.add_subplot(1, COLUMNS, place)
            colour, dashes = {"✓": (BLUE, "-"), "✗": (VERMILLION, "--")}.get(below[0], ("0.8", "-"))
            show(axes, read_image(row), colour, dashes)
            axes.set_xlabel(below, fontsize=9, color="0.35" if colour == "0.8" else colour)
    save_figure(figure, path)


def plot_searches(result: Result, path: str | Path) -> None:
    """Show the first captions of images spread evenly over the rows, with their closest images."""
    captions = np.searchsorted(result.outcomes.caption_to_image, spread(len(result.dataset), SEARCHES))
    recall = percent(result.metrics["text_to_image_recall@1"])
    plot_answers(result, captions, f"captions with their closest images; the first is right for {recall} of all", path)


def plot_failed_searches(result: Result, path: str | Path) -> None:
    """Show the captions whose own image has the lowest rank, one caption an image."""
    outcomes = result.outcomes
    worst = np.argsort(-outcomes.text_ranks, kind="stable")
    worst = worst[outcomes.text_ranks[worst] > 1]
    _, first = np.unique(outcomes.caption_to_image[worst], return_index=True)
    captions = worst[np.sort(first)][:SEARCHES]
    plot_answers(result, captions, "captions whose own image (dashed) has the lowest rank", path)
