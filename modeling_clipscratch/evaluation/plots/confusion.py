"""Plot a confusion matrix, and list the most frequent mistakes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.ticker import MaxNLocator

from ..report.metric_tables import percent
from .figures import new_figure, save_figure, shortened

MOST_TICKS = 40  # class names on an axis; more cannot be read
MOST_CELLS = 200  # classes; with more, cells are too small to be seen and marks take their place
MOST_COUNTS = 20  # classes whose counts are written into the cells


def plot_confusion(confusion: np.ndarray, class_names: Sequence[str], path: str | Path) -> None:
    """Plot true classes down and predicted classes across; shade = share of the true class, number = count.

    Args:
        confusion: (C, C) counts, row = true class.
        class_names: (C,).
        path: of the PNG.
    """
    classes = len(class_names)
    assert confusion.shape == (classes, classes), f"confusion {confusion.shape} for {classes} class names"
    totals = confusion.sum(1, keepdims=True)
    shares = 100 * np.divide(confusion, totals, out=np.zeros(confusion.shape), where=totals > 0)
    labelled, counted = classes <= MOST_TICKS, classes <= MOST_COUNTS
    size = min(max(4.2, 0.42 * classes + 1.8), 14.0) if labelled else 8.0
    # Axes of fixed proportions: with the constrained layout their names would be cut off.
    figure = new_figure(size + 0.8, size, layout="compressed")
    axes = figure.add_subplot()
    # The root of the share: a mistake made once in fifty images would not be seen otherwise.
    shade = {"cmap": "Blues", "norm": PowerNorm(0.5, vmin=0, vmax=100)}
    if classes <= MOST_CELLS:
        cells = axes.imshow(shares, interpolation="nearest", **shade)
    else:
        rows, columns = np.nonzero(confusion)
        order = np.argsort(shares[rows, columns])  # the darker ones on top
        rows, columns = rows[order], columns[order]
        marks = {"marker": "s", "s": 9, "edgecolor": "0.6", "linewidth": 0.2}
        cells = axes.scatter(columns, rows, c=shares[rows, columns], **shade, **marks)
        axes.set(aspect="equal", xlim=(-0.5, classes - 0.5), ylim=(classes - 0.5, -0.5))
    bar = figure.colorbar(cells, ax=axes, fraction=0.045, pad=0.03, ticks=[0, 1, 5, 10, 25, 50, 100])
    bar.set_label("% of the true class")
    bar.outline.set_visible(False)
    if labelled:
        font = 9 if counted else 7
        names = [shortened(name, 22) for name in class_names]
        upright = classes > 12 or max(len(name) for name in names) > 5
        axes.set_xticks(range(classes), names, rotation=90 if upright else 0, fontsize=font, parse_math=False)
        axes.set_yticks(range(classes), names, fontsize=font, parse_math=False)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel("predicted" if labelled else "predicted (number of the class)")
    axes.set_ylabel("true" if labelled else "true (number of the class)")
    axes.tick_params(length=0)
    axes.spines[:].set_color("0.8")
    for row, column in zip(*np.nonzero(confusion), strict=True) if counted else ():
        style = {
            "color": "white" if shares[row, column] > 30 else "black",
            "fontsize": 8 if confusion.max() < 1000 else 6.5,
        }
        axes.text(column, row, int(confusion[row, column]), ha="center", va="center", **style)
    right = percent(confusion.trace() / confusion.sum())
    axes.set_title(f"{right} of {confusion.sum():,} images right", loc="left", fontsize=11, fontweight="bold")
    save_figure(figure, path)


def worst_confusions(confusion: np.ndarray, class_names: Sequence[str], most: int = 10) -> list[dict]:
    """List the most frequent mistakes: `true`, `predicted`, `count` and `of`, the number of images of the true class.

    >>> worst_confusions(np.array([[3, 1], [0, 2]]), ["cat", "dog"])
    [{'true': 'cat', 'predicted': 'dog', 'count': 1, 'of': 4}]
    """
    rows, columns = np.nonzero(confusion)
    rows, columns = rows[rows != columns], columns[rows != columns]
    order = np.argsort(-confusion[rows, columns], kind="stable")[:most]
    return [
        {
            "true": class_names[t],
            "predicted": class_names[p],
            "count": int(confusion[t, p]),
            "of": int(confusion[t].sum()),
        }
        for t, p in zip(rows[order], columns[order], strict=True)
    ]
