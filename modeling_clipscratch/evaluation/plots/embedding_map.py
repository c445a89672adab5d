"""Plot image embeddings in the plane, similar ones close to each other."""

from pathlib import Path

import numpy as np
from matplotlib.patheffects import withStroke
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from ..evaluate_dataset import Result
from .figures import WIDTH, new_figure, plain_legend, resized, save_figure, shortened, spread, title

MOST_POINTS = 2000  # images; t-SNE of more takes minutes
FEW = 50  # images; t-SNE of fewer shows more of its start than of them
FEWEST = 3  # images
# Ten classes differ in colour and marker; the colours are for colour-blind readers, too (Petroff, arXiv 2107.02270).
COLOURS = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")


def plot_embeddings(result: Result, path: str | Path) -> None:
    """Plot class data as points with the look of their class, caption data as images where they do not overlap.

    Args:
        result: of at least three images; no file is written for fewer.
        path: of the PNG.
    """
    if len(result.dataset) < FEWEST:
        return
    chosen = spread(np.arange(len(result.dataset)), MOST_POINTS)
    places, method = layout(result.image_embeds[chosen].numpy())
    low, high = places.min(0), places.max(0)
    span = max(high - low) or 1.0
    figure = new_figure(WIDTH, 6.0)
    axes = figure.add_subplot()
    if result.kind == "class":
        _draw_classes(axes, places, result.outcomes.labels[chosen], result.class_names, 0.07 * span)
        plain_legend(figure, loc="outside right upper", markerscale=1.4)
    else:
        side = span / 16  # of an image
        for place in uncrowded(places, 1.02 * side):
            image = resized(result.read_image(chosen[place]))
            (x, y), (dx, dy) = places[place], np.array(image.size) / max(image.size) * side / 2
            axes.imshow(image, extent=(x - dx, x + dx, y - dy, y + dy))
        low, high = low - 0.6 * side, high + 0.6 * side
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color("0.85")
    title(figure, f"{len(chosen):,} images, similar ones close to each other ({method})", x=0.01, ha="left")
    save_figure(figure, path)


def _draw_classes(axes, places, labels, names, distance):
    """Ten most frequent classes by colour and marker, the others in grey; names where they do not overlap."""
    shown, counts = np.unique(labels, return_counts=True)
    marked = np.sort(shown[np.argsort(-counts, kind="stable")][: len(COLOURS)])
    size = 30 if len(labels) <= 500 else 18
    for label, colour, marker in zip(marked, COLOURS, MARKERS, strict=False):
        style = {"color": colour, "marker": marker, "edgecolor": "0.2", "linewidth": 0.3, "alpha": 0.85}
        axes.scatter(*places[labels == label].T, s=size, label=shortened(names[label], 20), **style)
    rest = ~np.isin(labels, marked)
    if rest.any():
        style = {"color": "0.8", "marker": ".", "zorder": 0, "linewidth": 0}
        axes.scatter(*places[rest].T, s=size / 2, label=f"{len(shown) - len(marked)} other classes", **style)
    centres = np.array([_centre(places[labels == label]) for label in marked])
    halo = [withStroke(linewidth=3, foreground="white")]
    for number in uncrowded(centres, distance):
        style = {"fontsize": 9, "fontweight": "bold", "ha": "center", "path_effects": halo, "parse_math": False}
        name = shortened(names[marked[number]], 16)
        axes.annotate(name, centres[number], (0, 10), textcoords="offset points", **style)


def layout(embeds: np.ndarray) -> tuple[np.ndarray, str]:
    """(N, P) -> (N, 2) places, the same at each call, and the method: PCA for few embeddings, t-SNE for more."""
    if len(embeds) < FEW:
        parts = min(2, embeds.shape[1])
        places = PCA(parts, random_state=0).fit_transform(embeds)
        return np.pad(places, ((0, 0), (0, 2 - parts))), "PCA"
    if np.ptp(embeds, axis=0).max() < 1e-6:  # a collapsed model: PCA, from which t-SNE starts, would divide by 0
        return np.zeros((len(embeds), 2)), "all equal"
    tsne = TSNE(2, perplexity=min(30, len(embeds) // 4), init="pca", metric="cosine", random_state=0)
    return tsne.fit_transform(embeds), "t-SNE"


def uncrowded(places: np.ndarray, distance: float) -> list[int]:
    """Numbers of the places that keep a distance in x or y from all places taken before them.

    >>> uncrowded(np.array([[0.0, 0.0], [0.5, 0.5], [0.1, 2.0]]), 1.0)
    [0, 2]
    """
    taken = []
    for number, place in enumerate(places):
        if all(np.abs(places[other] - place).max() >= distance for other in taken):
            taken.append(number)
    return taken


def _centre(places):
    """The place (N, 2) with a quarter of the others closest to it; a median may lie between two clusters."""
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
    return places[np.sort(distances, 1)[:, len(places) // 4].argmin()]
