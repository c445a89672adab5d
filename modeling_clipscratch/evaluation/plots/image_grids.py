"""Show images with their predictions, and searches with their answers."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from ..evaluate_dataset import Result
from ..metrics.zero_shot import cosines
from ..report.metric_tables import percent
from .figures import BLUE, VERMILLION, WIDTH, new_figure, save_figure, shortened, show, spread, title

COLUMNS = 5
LINE = 2.03  # inches
MOST_IMAGES = 20  # of a grid of predictions
SEARCHES = 6  # of a grid of answers


def plot_predictions(result: Result, rows: Sequence[int], heading: str, path: str | Path) -> None:
    """Show images of class data with the predicted class, its confidence and, for a mistake, the true class."""
    labels, names, confidence = result.outcomes.labels, result.class_names, result.outcomes.confidence
    lines = -(-len(rows) // COLUMNS)
    figure = new_figure(WIDTH, LINE * lines + 0.4)
    title(figure, heading)
    for place, row in enumerate(rows, start=1):
        axes = figure.add_subplot(lines, COLUMNS, place)
        hit = result.predicted[row] == labels[row]
        colour, sign = (BLUE, "✓") if hit else (VERMILLION, "✗")
        show(axes, result.read_image(int(row)), colour, "-" if hit else "--")
        predicted = f"{sign} {shortened(names[result.predicted[row]], 12)}, {percent(confidence[row], 0)}"
        axes.set_title(predicted, fontsize=9, color=colour, parse_math=False)
        truth = "" if hit else f"is {shortened(names[labels[row]], 17)}"
        axes.set_xlabel(truth, fontsize=9, parse_math=False)
    save_figure(figure, path)


def plot_examples(result: Result, path: str | Path) -> None:
    """Show images spread evenly over the rows, not chosen by their predictions."""
    rows = spread(np.arange(len(result.dataset)), MOST_IMAGES)
    hits = int((result.predicted[rows] == result.outcomes.labels[rows]).sum())
    heading = f"{len(rows)} of {len(result.dataset):,} images, evenly spread: {hits} right"
    plot_predictions(result, rows, heading, path)


def plot_hits(result: Result, path: str | Path) -> None:
    """Show the right predictions with the highest confidence, the classes in turn. Without any, no file is written."""
    labels, confidence = result.outcomes.labels, result.outcomes.confidence
    seen, turns = {}, []
    for row in np.argsort(-confidence, kind="stable"):
        if result.predicted[row] == labels[row]:
            seen[labels[row]] = seen.get(labels[row], 0) + 1
            turns.append((seen[labels[row]], -confidence[row], int(row)))
    if rows := [row for _, _, row in sorted(turns)[: MOST_IMAGES // 2]]:
        plot_predictions(result, rows, "right, with the highest confidence (the classes in turn)", path)


def plot_misses(result: Result, path: str | Path) -> None:
    """Show the mistakes with the highest confidence. Without any, no file is written."""
    order = np.argsort(-result.outcomes.confidence, kind="stable")
    wrong = order[result.predicted[order] != result.outcomes.labels[order]]
    if len(wrong):
        plot_predictions(result, wrong[: MOST_IMAGES // 2], "wrong, with the highest confidence", path)


def plot_answers(result: Result, captions: Sequence[int], heading: str, path: str | Path) -> None:
    """Show captions with their closest images; their own image is framed, and last if it is not among them."""
    outcomes, texts = result.outcomes, list(chain.from_iterable(result.captions))
    scores = cosines(result.text_embeds[captions], result.image_embeds)
    best = scores.topk(min(COLUMNS, len(result.dataset))).indices.tolist()
    figure = new_figure(WIDTH, 1.95 * len(captions) + 0.4)
    title(figure, heading)
    for band, caption, rows in zip(np.atleast_1d(figure.subfigures(len(captions), 1)), captions, best, strict=True):
        own, rank = (
            int(outcomes.caption_to_image[caption]),
            f"{outcomes.text_ranks[caption]:,} of {len(result.dataset):,}",
        )
        band.suptitle(shortened(texts[caption], 110), fontsize=9.5, x=0.01, ha="left", parse_math=False)
        shown = [(row, f"✓ {place}" if row == own else f"{place}") for place, row in enumerate(rows, start=1)]
        if own not in rows:
            shown[-1] = (own, f"✗ {rank}")
        for place, (row, below) in enumerate(shown, start=1):
            axes = band.add_subplot(1, COLUMNS, place)
            colour, dashes = {"✓": (BLUE, "-"), "✗": (VERMILLION, "--")}.get(below[0], ("0.8", "-"))
            show(axes, result.read_image(int(row)), colour, dashes)
            axes.set_xlabel(below, fontsize=9, color="0.35" if colour == "0.8" else colour)
    save_figure(figure, path)


def plot_searches(result: Result, path: str | Path) -> None:
    """Show the first captions of images spread evenly over the rows, with their closest images."""
    captions = np.searchsorted(result.outcomes.caption_to_image, spread(np.arange(len(result.dataset)), SEARCHES))
    recall = percent(result.metrics["text_to_image_recall@1"])
    plot_answers(result, captions, f"captions with their closest images; the first is right for {recall} of all", path)


def plot_retrieval_misses(result: Result, path: str | Path) -> None:
    """Show the captions whose own image has the lowest rank. Without misses, no file is written."""
    outcomes = result.outcomes
    worst = np.argsort(-outcomes.text_ranks, kind="stable")
    worst = worst[outcomes.text_ranks[worst] > 1]
    _, first = np.unique(outcomes.caption_to_image[worst], return_index=True)  # one caption for each image
    if len(worst):
        captions = worst[np.sort(first)][:SEARCHES]
        plot_answers(result, captions, "captions whose own image (dashed) has the lowest rank", path)


def plot_captions(result: Result, path: str | Path) -> None:
    """Show images spread evenly over the rows, with their closest captions; their own captions are marked."""
    owners, captions = result.outcomes.caption_to_image, list(chain.from_iterable(result.captions))
    chosen = spread(np.arange(len(result.dataset)), SEARCHES)
    figure = new_figure(WIDTH, 1.72 * len(chosen) + 0.4)
    recall = percent(result.metrics["image_to_text_recall@1"])
    title(figure, f"images with their closest captions; the first is right for {recall} of all")
    grid = figure.add_gridspec(len(chosen), 2, width_ratios=[1.5, WIDTH - 1.5])
    for line, (row, scores) in enumerate(
        zip(chosen, cosines(result.image_embeds[chosen], result.text_embeds), strict=True)
    ):
        axes = figure.add_subplot(grid[line, 0])
        show(axes, result.read_image(row))
        axes.set_xlabel(f"rank {result.outcomes.image_ranks[row]:,} of {len(captions):,}", fontsize=8)
        axes = figure.add_subplot(grid[line, 1])
        axes.axis("off")
        best = scores.topk(min(COLUMNS, len(captions)))
        for place, (score, caption) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            own = owners[caption] == row
            style = {"color": BLUE, "fontweight": "bold"} if own else {"color": "0.2"}
            style |= {"va": "center", "transform": axes.transAxes, "parse_math": False, "in_layout": False}
            for x, text in ((0, "✓" if own else ""), (0.035, f"{score:.2f}"), (0.1, shortened(captions[caption], 74))):
                axes.text(x, 0.9 - 0.2 * place, text, fontsize=8.5, **style)
    save_figure(figure, path)
