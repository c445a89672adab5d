"""Plot the cosines of some images with texts."""

from pathlib import Path

import numpy as np
from matplotlib.patches import Rectangle

from ...data.templates import class_prompts
from ..evaluate_dataset import Result
from ..metrics.zero_shot import cosines
from .figures import BLACK, new_figure, resized, save_figure, shortened, spread, title

MOST_CAPTIONS = 12  # images with their captions
MOST_CLASSES = 16  # prompts, and images of them


def plot_similarity(result: Result, path: str | Path) -> None:
    """Plot images across, texts down, cosines in the cells; the right pairs are framed.

    Class data: the first prompt and images of each shown class. Caption data: the first caption of each image.
    """
    rows, texts, embeds, right = _class_batch(result) if result.kind == "class" else _caption_batch(result)
    scores = cosines(embeds, result.image_embeds[rows]).numpy()
    cell, names = 0.52, 3.4  # inches
    figure = new_figure(names + cell * len(rows) + 0.2, cell * (len(texts) + 1) + 0.9, layout="compressed")
    axes = figure.add_subplot()
    # White up to the median, so that the shades are left for the cells that matter.
    low, high = float(np.median(scores)), float(scores.max()) + 1e-6
    axes.imshow(scores, cmap="Blues", vmin=low, vmax=high, aspect="equal")
    for column, row in enumerate(rows):  # each image is above its column
        image = resized(result.read_image(int(row)))
        x, y = np.array(image.size) / max(image.size) * 0.47
        axes.imshow(image, extent=(column - x, column + x, -1 + y, -1 - y), aspect="equal")
    axes.set_ylim(len(texts) - 0.5, -1.5)
    axes.set_xlim(-0.5, len(rows) - 0.5)
    for (line, column), value in np.ndenumerate(scores):
        colour = "white" if value > low + 0.6 * (high - low) else "black"
        shown = f"{value:.2f}".replace("-0.00", "0.00")
        axes.text(column, line, shown, ha="center", va="center", fontsize=7, color=colour)
        if right[line, column]:
            axes.add_patch(Rectangle((column - 0.47, line - 0.47), 0.94, 0.94, fill=False, ec=BLACK, lw=1.8))
    axes.set_yticks(range(len(texts)), [shortened(text, 46) for text in texts], fontsize=8.5, parse_math=False)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    title(figure, "cosines of images and texts; right pairs are framed", x=0.01, ha="left")
    save_figure(figure, path)


def _class_batch(result):
    labels = result.outcomes.labels
    classes = spread(np.unique(labels), MOST_CLASSES)
    each = max(1, 8 // len(classes))  # images of a class
    rows = [row for number in classes for row in np.flatnonzero(labels == number)[:each]]
    texts = [class_prompts(result.class_names[number], result.templates)[0] for number in classes]
    return rows, texts, result.text_embeds[classes], np.array(classes)[:, None] == labels[rows][None]


def _caption_batch(result):
    rows = spread(np.arange(len(result.dataset)), MOST_CAPTIONS)
    first = np.searchsorted(result.outcomes.caption_to_image, rows)
    texts = [result.captions[row][0] for row in rows]
    return rows, texts, result.text_embeds[first], np.eye(len(rows), dtype=bool)
