"""A `Result` goes in; its embeddings, laid out in the plane so that like stands near like, come out as one PNG."""

from pathlib import Path

import numpy as np
from matplotlib.patheffects import withStroke
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from ..evaluate_dataset import Result
from .figures import BLUE, ORANGE, WIDTH, look, new_figure, plain_legend, save_figure, shortened, small, spread, title

MOST_POINTS = 2000  # pictures; t-SNE of more takes minutes
MOST_PAIRS = 300  # pictures with a caption each; more lines cannot be told apart
FEW = 50  # points; t-SNE of fewer shows more of its start than of them
MOST_MARKED = 12  # classes with a colour and a marker
TITLE = {"loc": "left", "fontsize": 11, "fontweight": "bold"}
FEWEST = 3  # points; fewer make no map


def plot_embeddings(result: Result, path: str | Path) -> None:
    """Class data: pictures, coloured and marked by their class. Caption data: pictures, each tied to its first caption.

    Pictures and texts of a CLIP lie in two different cones (Liang et al. 2022, arXiv 2203.02053), which is all that a
    map of both would show. So the mean of each is taken away first, and the title says how far apart they were.

    Args:
        result: of `evaluate_dataset`.
        path: the PNG. None is made of fewer than three pictures.
    """
    if len(result.dataset) >= FEWEST:
        (_class_map if result.kind == "class" else _caption_map)(result, path)


def _class_map(result, path):
    chosen = spread(np.arange(len(result.dataset)), MOST_POINTS)
    labels = result.outcomes.labels[chosen]
    places, method = layout(result.image_embeds[chosen].numpy())
    shown, counts = np.unique(labels, return_counts=True)
    marked = np.sort(shown[np.argsort(-counts, kind="stable")][:MOST_MARKED])
    figure = new_figure(7.6, 6.0)
    axes = figure.add_subplot()
    rest = ~np.isin(labels, marked)
    size = 26 if len(chosen) <= 500 else 14
    for number, label in enumerate(marked):
        name = shortened(result.class_names[label], 20)
        axes.scatter(*places[labels == label].T, s=size, alpha=0.75, linewidth=0, label=name, **look(number))
    if rest.any():
        name = f"{len(shown) - len(marked)} other classes"
        axes.scatter(*places[rest].T, s=size / 2, color="0.8", marker=".", zorder=0, linewidth=0, label=name)
    hearts = np.array([_heart(places[labels == label]) for label in marked])
    halo = [withStroke(linewidth=3, foreground="white")]
    for number in uncrowded(hearts, 0.07 * (np.ptp(places, axis=0).max() or 1.0)):
        name = shortened(result.class_names[marked[number]], 16)
        style = {"fontsize": 9, "fontweight": "bold", "ha": "center", "path_effects": halo, "parse_math": False}
        axes.annotate(name, hearts[number], (0, 10), textcoords="offset points", **style)
    _bare(axes)
    plain_legend(figure, loc="outside right upper", markerscale=1.4)
    title(figure, f"{len(chosen):,} pictures, like near like ({method})", x=0.01, ha="left")
    save_figure(figure, path)


def _caption_map(result, path):
    chosen = spread(np.arange(len(result.dataset)), MOST_PAIRS)
    pictures = result.image_embeds[chosen].numpy()
    texts = result.text_embeds[np.searchsorted(result.outcomes.caption_to_image, chosen)].numpy()
    gap = np.linalg.norm(pictures.mean(0) - texts.mean(0))
    places, method = layout(np.concatenate([pictures - pictures.mean(0), texts - texts.mean(0)]))
    of_pictures, of_texts = np.split(places, 2)
    low, high = places.min(0), places.max(0)
    span = max(high - low) or 1.0
    side = span / 13  # of a thumbnail
    low, high = low - 0.6 * side, high + 0.6 * side
    tall = WIDTH * (high - low)[1] / (high - low)[0]
    figure = new_figure(WIDTH, 2 * tall + 1.3)
    pairs, thumbnails = figure.subplots(2, 1)
    pairs.plot(*np.stack([of_pictures, of_texts]).transpose(2, 0, 1), color="0.8", linewidth=0.6, zorder=1)
    pairs.scatter(*of_pictures.T, s=16, color=BLUE, marker="o", linewidth=0, label="picture", zorder=2)
    pairs.scatter(*of_texts.T, s=20, color=ORANGE, marker="x", linewidth=1.2, label="its first caption", zorder=2)
    plain_legend(pairs, loc="upper left", bbox_to_anchor=(0, 0), ncols=2, borderaxespad=0.2)
    pairs.set_title(f"{len(chosen):,} pictures, each tied to a caption ({method})", **TITLE)
    pairs.set_xlabel(f"the means, {gap:.2f} apart, are taken away", fontsize=8.5, loc="right")
    thumbnails.set_title("the pictures of the same map", **TITLE)
    for place in uncrowded(of_pictures, 1.02 * side):
        picture = small(result.read_image(chosen[place]))
        (x, y), (dx, dy) = of_pictures[place], np.array(picture.size) / max(picture.size) * side / 2
        thumbnails.imshow(picture, extent=(x - dx, x + dx, y - dy, y + dy))
    for axes in (pairs, thumbnails):
        _bare(axes)
        axes.set_xlim(low[0], high[0])
        axes.set_ylim(low[1], high[1])
        axes.set_aspect("equal")
    save_figure(figure, path)


def layout(embeds: np.ndarray) -> tuple[np.ndarray, str]:
    """(N, P) -> (N, 2) places, the same at each call, and the name of the method: PCA of a few, t-SNE of more."""
    if len(embeds) < FEW:
        parts = min(2, embeds.shape[1])
        places = PCA(parts, random_state=0).fit_transform(embeds)
        return np.pad(places, ((0, 0), (0, 2 - parts))), "PCA"
    perplexity = min(30, len(embeds) // 4)
    if np.ptp(embeds, axis=0).max() < 1e-6:  # a collapsed model: PCA, from which t-SNE starts, would divide by 0
        return np.zeros((len(embeds), 2)), "all alike"
    tsne = TSNE(2, perplexity=perplexity, init="pca", metric="cosine", random_state=0)
    return tsne.fit_transform(embeds), "t-SNE"


def uncrowded(places: np.ndarray, distance: float) -> list[int]:
    """Numbers of places that keep a distance in x or y from all that were taken before them.

    >>> uncrowded(np.array([[0.0, 0.0], [0.5, 0.5], [0.1, 2.0]]), 1.0)
    [0, 2]
    """
    taken = []
    for number, place in enumerate(places):
        if all(np.abs(places[other] - place).max() >= distance for other in taken):
            taken.append(number)
    return taken


def _heart(places):
    """Of (N, 2) places, the one with a quarter of the others closest to it; a median may lie between two crowds."""
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
    return places[np.sort(distances, 1)[:, len(places) // 4].argmin()]


def _bare(axes):
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("0.85")
