"""Plot accuracy against confidence."""

from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator

from ..metrics.outcomes import CALIBRATION, CALIBRATION_BINS, ClassOutcomes, calibration_bins, share_interval
from ..report.metric_tables import percent
from .figures import BLACK, BLUE, VERMILLION, new_figure, plain_legend, save_figure, tidy


def plot_calibration(outcomes: ClassOutcomes, path: str | Path) -> None:
    """Plot the accuracy in each bin of confidences with its 95 % interval, and below it the number of images.

    Args:
        outcomes: with confidences.
        path: of the PNG.
    """
    bins = calibration_bins(outcomes.confidence)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    filled = counts > 0
    total = counts[filled]
    accuracy = np.bincount(bins, outcomes.ranks <= 1, CALIBRATION_BINS)[filled] / total
    confidence = 100 * np.bincount(bins, outcomes.confidence, CALIBRATION_BINS)[filled] / total
    low, high = (100 * end for end in share_interval(accuracy, total))
    accuracy = 100 * accuracy

    figure = new_figure(5.6, 5.8)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 100], [0, 100], color=BLACK, linestyle="--", linewidth=1, label="accuracy = confidence")
    upper.vlines(confidence, accuracy, confidence, color=VERMILLION, linewidth=5, alpha=0.45, label="gap")
    spans = np.maximum([accuracy - low, high - accuracy], 0)
    upper.errorbar(
        confidence, accuracy, spans, color=BLUE, fmt="o", markersize=5, linewidth=1.2, capsize=3, label="accuracy"
    )
    upper.set_ylabel("accuracy, %")
    upper.set_ylim(-3, 103)
    upper.set_xlim(0, 101)
    error = percent(outcomes.metrics()[CALIBRATION])
    upper.set_title(f"calibration error {error} (mean gap)", loc="left", fontsize=11, fontweight="bold")
    plain_legend(upper, loc="upper left")
    edges = 100 * np.arange(CALIBRATION_BINS) / CALIBRATION_BINS
    lower.bar(edges, counts, width=100 / CALIBRATION_BINS, align="edge", color="0.55", edgecolor="white")
    lower.set_ylabel("images")
    lower.set_xlabel("confidence in the predicted class, %")
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    lower.margins(y=0.25)
    for edge, count in zip(edges[filled], total, strict=True):
        place = (edge + 50 / CALIBRATION_BINS, count)
        style = {"textcoords": "offset points", "ha": "center", "fontsize": 6.5, "color": "0.25"}
        lower.annotate(f"{count:,}", place, (0, 2), **style)
    for axes in (upper, lower):
        tidy(axes)
    save_figure(figure, path)
