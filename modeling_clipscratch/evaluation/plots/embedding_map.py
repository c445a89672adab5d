"""Plot image embeddings in the plane, similar ones close to each other."""

from pathlib import Path

import numpy as np
from sklearn.manifold import TSNE

from ...data.dataset import ImageReader
from ..evaluate_dataset import Result
from .figures import WIDTH, new_figure, plain_legend, resized, save_figure, shortened, spread, title

MOST_POINTS = 2000  # images; t-SNE of more takes minutes
FEWEST = 50  # images; t-SNE of fewer shows more of its start than of them
# Ten classes differ in colour and marker; the colours are for colour-blind readers, too (Petroff, arXiv 2107.02270).
COLOURS = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")


def plot_embeddings(result: Result, path: str | Path) -> None:
    """Plot class data as points with the look of their class, caption data as images where they do not overlap.

    For fewer than 50 images, and if all embeddings are equal, no file is written.
    """
    chosen = spread(len(result.dataset), MOST_POINTS)
    embeds = result.image_embeds[chosen].numpy()
    if len(chosen) < FEWEST or np.ptp(embeds, axis=0).max() < 1e-6:
        return
    tsne = TSNE(2, perplexity=min(30, len(embeds) // 4), init="pca", metric="cosine", random_state=0)
    places = tsne.fit_transform(embeds)
    figure = new_figure(WIDTH, 6.0)
    axes = figure.add_subplot()
    if result.class_names is not None:
        _draw_classes(axes, places, result.outcomes.labels[chosen], result.class_names)
        plain_legend(figure, loc="outside right upper", markerscale=1.4)
    else:
        low, high = places.min(0), places.max(0)
        side, read_image = max(high - low) / 16, ImageReader(result.dataset)
        for place in uncrowded(places, 1.02 * side):
            image = resized(read_image(chosen[place]))
            (x, y), (dx, dy) = places[place], np.array(image.size) / max(image.size) * side / 2
            axes.imshow(image, extent=(x - dx, x + dx, y - dy, y + dy))
        low, high = low - 0.6 * side, high + 0.6 * side
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    axes.set(xticks=[], yticks=[])
    title(figure, f"{len(chosen):,} images, similar ones close to each other (t-SNE)", x=0.01, ha="left")
    save_figure(figure, path)


def _draw_classes(axes, places, labels, names):
    """Draw the ten most frequent classes by colour and marker, the others in grey."""
    shown, counts = np.unique(labels, return_counts=True)
    marked = np.sort(shown[np.argsort(-counts, kind="stable")][: len(COLOURS)])
    size = 30 if len(labels) <= 500 else 18
    for label, colour, marker in zip(marked, COLOURS, MARKERS, strict=False):
        style = {"color": colour, "marker": marker, "edgecolor": "0.2", "linewidth": 0.3, "alpha": 0.85}
        axes.scatter(*places[labels == label].T, s=size, label=shortened(names[label], 20), **style)
    rest = ~np.isin(labels, marked)
    if rest.any():
        others = f"{len(shown) - len(marked)} other classes"
        axes.scatter(*places[rest].T, s=size / 2, label=others, color="0.8", marker=".", zorder=0)


def uncrowded(places: np.ndarray, distance: float) -> list[int]:
    """Return the numbers of the places that keep a distance in x or y from all places taken before them.

    >>> uncrowded(np.array([[0.0, 0.0], [0.5, 0.5], [0.1, 2.0]]), 1.0)
    [0, 2]
    """
    taken = []
    for number, place in enumerate(places):
        if all(np.abs(places[other] - place).max() >= distance for other in taken):
            taken.append(number)
    return taken
