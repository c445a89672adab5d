"""Plot what a model confuses and how sure it is, and list its most frequent mistakes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.ticker import MaxNLocator

from ..metrics.outcomes import CALIBRATION, CALIBRATION_BINS, ClassOutcomes, calibration_bins, share_interval
from ..report.metric_tables import percent
from .figures import BLACK, BLUE, new_figure, plain_legend, save_figure, shortened, tidy

MOST_TICKS = 40  # class names on an axis; more cannot be read
MOST_COUNTS = 20  # classes whose counts are written into the cells


def plot_confusion(confusion: np.ndarray, class_names: Sequence[str], path: str | Path) -> None:
    """Plot true classes down and predicted classes across; shade = share of the true class, number = count."""
    classes = len(class_names)
    shares = 100 * confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    labelled, counted = classes <= MOST_TICKS, classes <= MOST_COUNTS
    size = min(max(4.2, 0.42 * classes + 1.8), 14.0) if labelled else 8.0
    # Axes of fixed proportions: with the constrained layout their names would be cut off.
    figure = new_figure(size + 0.8, size, layout="compressed")
    axes = figure.add_subplot()
    # The root of the share: a mistake made once in fifty images would not be seen otherwise.
    cells = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=100), interpolation="nearest")
    bar = figure.colorbar(cells, ax=axes, fraction=0.045, pad=0.03, ticks=[0, 1, 5, 10, 25, 50, 100])
    bar.set_label("% of the true class")
    if labelled:
        style = {"labels": [shortened(name, 22) for name in class_names], "fontsize": 9 if counted else 7}
        axes.set_xticks(range(classes), rotation=90, parse_math=False, **style)
        axes.set_yticks(range(classes), parse_math=False, **style)
    axes.set_xlabel("predicted" if labelled else "predicted (number of the class)")
    axes.set_ylabel("true" if labelled else "true (number of the class)")
    for row, column in np.argwhere(confusion) if counted else ():
        colour = "white" if shares[row, column] > 30 else "black"
        axes.text(column, row, confusion[row, column], ha="center", va="center", fontsize=7, color=colour)
    right = percent(confusion.trace() / confusion.sum())
    axes.set_title(f"{right} of {confusion.sum():,} images right", loc="left", fontsize=11, fontweight="bold")
    save_figure(figure, path)


def worst_confusions(confusion: np.ndarray, class_names: Sequence[str], most: int = 10) -> list[tuple]:
    """List the most frequent mistakes: true class, predicted class, count, and images of the true class.

    >>> worst_confusions(np.array([[3, 1], [0, 2]]), ["cat", "dog"])
    [('cat', 'dog', 1, 4)]
    """
    wrong = confusion - np.diag(confusion.diagonal())
    cells = np.argsort(-wrong, axis=None, kind="stable")[: min(most, np.count_nonzero(wrong))]
    rows, columns = np.unravel_index(cells, wrong.shape)
    counts, totals = wrong[rows, columns].tolist(), confusion.sum(1)[rows].tolist()
    names = ((class_names[row], class_names[column]) for row, column in zip(rows, columns, strict=True))
    return [(*pair, count, total) for pair, count, total in zip(names, counts, totals, strict=True)]


def plot_calibration(outcomes: ClassOutcomes, path: str | Path) -> None:
    """Plot the accuracy in each bin of confidences with its 95 % interval, and below it the number of images."""
    bins = calibration_bins(outcomes.confidence)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    filled = counts > 0
    total = counts[filled]
    accuracy = np.bincount(bins, outcomes.ranks <= 1, CALIBRATION_BINS)[filled] / total
    confidence = np.bincount(bins, outcomes.confidence, CALIBRATION_BINS)[filled] / total
    low, high = share_interval(accuracy, total)
    whiskers = 100 * np.maximum([accuracy - low, high - accuracy], 0)

    figure = new_figure(5.6, 5.8)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 100], [0, 100], color=BLACK, linestyle="--", linewidth=1, label="accuracy = confidence")
    upper.errorbar(100 * confidence, 100 * accuracy, whiskers, color=BLUE, fmt="o", capsize=3, label="accuracy")
    upper.set(ylabel="accuracy, %", xlim=(0, 101), ylim=(-3, 103))
    error = percent(outcomes.metrics()[CALIBRATION])
    upper.set_title(f"calibration error {error} (mean gap)", loc="left", fontsize=11, fontweight="bold")
    plain_legend(upper, loc="upper left")
    width = 100 / CALIBRATION_BINS
    lower.bar(width * np.arange(CALIBRATION_BINS), counts, width, align="edge", color="0.55", edgecolor="white")
    lower.set(ylabel="images", xlabel="confidence in the predicted class, %")
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    for axes in (upper, lower):
        tidy(axes)
    save_figure(figure, path)
