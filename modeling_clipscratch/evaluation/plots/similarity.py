"""A `Result` goes in; cosines of a batch of its pictures with their texts come out as one PNG."""

from pathlib import Path

import numpy as np
from matplotlib.patches import Rectangle

from ...data.templates import class_prompts
from ..evaluate_dataset import Result
from ..metrics.zero_shot import cosines
from .figures import BLACK, new_figure, save_figure, shortened, small, spread, title

MOST_CAPTIONS = 12  # pictures with their captions
MOST_CLASSES = 16  # prompts, and pictures with them


def plot_similarity(result: Result, path: str | Path) -> None:
    """Pictures across, texts down, cosines in the cells, the right pairs framed.

    Args:
        result: of `evaluate_dataset`. Of class data each class shown gives pictures and its prompt, of caption data
            each picture its first caption.
        path: the PNG.
    """
    pictures, texts, embeds, right = _class_batch(result) if result.kind == "class" else _caption_batch(result)
    scores = cosines(embeds, result.image_embeds[pictures]).numpy()
    cell, names = 0.52, 3.4  # inches
    figure = new_figure(names + cell * len(pictures) + 0.2, cell * (len(texts) + 1) + 0.9, layout="compressed")
    axes = figure.add_subplot()
    # Light up to the median: what is below it is no pair, and the rest has all shades to itself.
    low, high = float(np.median(scores)), float(scores.max()) + 1e-6
    axes.imshow(scores, cmap="Blues", vmin=low, vmax=high, aspect="equal")
    # Each picture stands above its column, in a line of cells of its own.
    for column, row in enumerate(pictures):
        picture = small(result.read_image(int(row)))
        half = np.array(picture.size) / max(picture.size) * 0.47
        box = (column - half[0], column + half[0], -1 + half[1], -1 - half[1])
        axes.imshow(picture, extent=box, aspect="equal")
    axes.set_ylim(len(texts) - 0.5, -1.5)
    axes.set_xlim(-0.5, len(pictures) - 0.5)
    for line in range(len(texts)):
        for column in range(len(pictures)):
            value = scores[line, column]
            colour = "white" if value > low + 0.6 * (high - low) else "black"
            axes.text(
                column,
                line,
                f"{value:.2f}".replace("-0.00", "0.00"),
                ha="center",
                va="center",
                fontsize=7,
                color=colour,
            )
            if right[line, column]:
                axes.add_patch(Rectangle((column - 0.47, line - 0.47), 0.94, 0.94, fill=False, ec=BLACK, lw=1.8))
    axes.set_yticks(range(len(texts)), [shortened(text, 46) for text in texts], fontsize=8.5, parse_math=False)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    title(figure, "cosines of pictures and texts; right pairs are framed", x=0.01, ha="left")
    save_figure(figure, path)


def _class_batch(result):
    """Classes spread over those that have pictures, each with its first pictures, in the order of the classes."""
    labels = result.outcomes.labels
    classes = spread(np.unique(labels), MOST_CLASSES)
    each = max(1, 8 // len(classes))  # two classes of one picture each would be a poor batch
    pictures = [row for number in classes for row in np.flatnonzero(labels == number)[:each]]
    texts = [class_prompts(result.class_names[number], result.templates)[0] for number in classes]
    return pictures, texts, result.text_embeds[classes], np.array(classes)[:, None] == labels[pictures][None]


def _caption_batch(result):
    pictures = spread(np.arange(len(result.dataset)), MOST_CAPTIONS)
    first = np.searchsorted(result.outcomes.caption_to_image, pictures)
    texts = [result.captions[row][0] for row in pictures]
    return pictures, texts, result.text_embeds[first], np.eye(len(pictures), dtype=bool)
