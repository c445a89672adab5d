"""What was predicted, how surely and how rightly goes in; confidence against accuracy comes out as one PNG."""

from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator

from ..metrics.outcomes import CALIBRATION_BINS, ClassOutcomes, calibration_bins, share_interval
from .figures import BLACK, BLUE, VERMILLION, new_figure, plain_legend, save_figure, tidy


def plot_calibration(outcomes: ClassOutcomes, path: str | Path) -> None:
    """Above: accuracy of each bin of confidences, with its 95 % interval, against the confidence. Below: its pictures.

    Args:
        outcomes: with confidences.
        path: the PNG.
    """
    bins = calibration_bins(outcomes.confidence)
    right = np.bincount(bins, outcomes.ranks <= 1, CALIBRATION_BINS)
    sure = np.bincount(bins, outcomes.confidence, CALIBRATION_BINS)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    filled = counts > 0
    total, right, sure = counts[filled], right[filled], sure[filled]
    accuracy, confidence = 100 * right / total, 100 * sure / total
    low, high = (100 * end for end in share_interval(right / total, total))

    figure = new_figure(5.6, 5.8)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 100], [0, 100], color=BLACK, linestyle="--", linewidth=1, label="as right as it is sure")
    upper.vlines(confidence, accuracy, confidence, color=VERMILLION, linewidth=5, alpha=0.45, label="gap")
    spans = np.maximum([accuracy - low, high - accuracy], 0)
    upper.errorbar(
        confidence, accuracy, spans, color=BLUE, fmt="o", markersize=5, linewidth=1.2, capsize=3, label="accuracy"
    )
    upper.set_ylabel("right, %")
    upper.set_ylim(-3, 103)
    upper.set_xlim(0, 101)
    error = outcomes.metrics()["expected_calibration_error"][0]
    upper.set_title(f"mean gap {error:.1%} (calibration error)", loc="left", fontsize=11, fontweight="bold")
    plain_legend(upper, loc="upper left")
    edges = 100 * np.arange(CALIBRATION_BINS) / CALIBRATION_BINS
    lower.bar(edges, counts, width=100 / CALIBRATION_BINS, align="edge", color="0.55", edgecolor="white")
    lower.set_ylabel("pictures")
    lower.set_xlabel("confidence in the predicted class, %")
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    lower.margins(y=0.25)
    for edge, count in zip(edges[filled], total, strict=True):
        lower.annotate(
            f"{count:,}",
            (edge + 50 / CALIBRATION_BINS, count),
            (0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=6.5,
            color="0.25",
        )
    for axes in (upper, lower):
        tidy(axes)
    save_figure(figure, path)
