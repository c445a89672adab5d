"""Plot embeddings in the plane, similar ones close to each other."""

from pathlib import Path

import numpy as np
from matplotlib.patheffects import withStroke
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from ..evaluate_dataset import Result
from .figures import BLUE, ORANGE, WIDTH, new_figure, plain_legend, resized, save_figure, shortened, spread, title

MOST_POINTS = 2000  # images; t-SNE of more takes minutes
MOST_PAIRS = 300  # images with a caption each; more lines cannot be distinguished
FEW = 50  # points; t-SNE of fewer shows more of its start than of them
FEWEST = 3  # points
# Ten classes differ in colour and marker. Colours: Petroff 2021, arXiv 2107.02270, chosen for colour-blind readers, too.
CLASS_COLOURS = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)
CLASS_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
TITLE = {"loc": "left", "fontsize": 11, "fontweight": "bold"}


def plot_embeddings(result: Result, path: str | Path) -> None:
    """Plot the images of class data by class; of caption data, each image with a line to its first caption.

    Images and texts of a CLIP lie in two different cones (Liang et al. 2022, arXiv 2203.02053), and a map of both would
    show nothing else. So the mean of each is subtracted first; the plot says how far apart the means are.

    Args:
        result: of at least three images; no file is written for fewer.
        path: of the PNG.
    """
    if len(result.dataset) >= FEWEST:
        (_class_map if result.kind == "class" else _caption_map)(result, path)


def _class_map(result, path):
    chosen = spread(np.arange(len(result.dataset)), MOST_POINTS)
    labels = result.outcomes.labels[chosen]
    places, method = layout(result.image_embeds[chosen].numpy())
    shown, counts = np.unique(labels, return_counts=True)
    marked = np.sort(shown[np.argsort(-counts, kind="stable")][: len(CLASS_COLOURS)])
    figure = new_figure(7.6, 6.0)
    axes = figure.add_subplot()
    size = 30 if len(chosen) <= 500 else 18
    for label, colour, marker in zip(marked, CLASS_COLOURS, CLASS_MARKERS, strict=False):
        style = {"color": colour, "marker": marker, "edgecolor": "0.2", "linewidth": 0.3}
        name = shortened(result.class_names[label], 20)
        axes.scatter(*places[labels == label].T, s=size, alpha=0.85, label=name, **style)
    rest = ~np.isin(labels, marked)
    if rest.any():
        name = f"{len(shown) - len(marked)} other classes"
        axes.scatter(*places[rest].T, s=size / 2, color="0.8", marker=".", zorder=0, linewidth=0, label=name)
    centres = np.array([_centre(places[labels == label]) for label in marked])
    halo = [withStroke(linewidth=3, foreground="white")]
    for number in uncrowded(centres, 0.07 * (np.ptp(places, axis=0).max() or 1.0)):
        name = shortened(result.class_names[marked[number]], 16)
        style = {"fontsize": 9, "fontweight": "bold", "ha": "center", "path_effects": halo, "parse_math": False}
        axes.annotate(name, centres[number], (0, 10), textcoords="offset points", **style)
    _bare(axes)
    plain_legend(figure, loc="outside right upper", markerscale=1.4)
    title(figure, f"{len(chosen):,} images, similar ones close to each other ({method})", x=0.01, ha="left")
    save_figure(figure, path)


def _caption_map(result, path):
    chosen = spread(np.arange(len(result.dataset)), MOST_PAIRS)
    images = result.image_embeds[chosen].numpy()
    texts = result.text_embeds[np.searchsorted(result.outcomes.caption_to_image, chosen)].numpy()
    gap = np.linalg.norm(images.mean(0) - texts.mean(0))
    places, method = layout(np.concatenate([images - images.mean(0), texts - texts.mean(0)]))
    of_images, of_texts = np.split(places, 2)
    low, high = places.min(0), places.max(0)
    side = (max(high - low) or 1.0) / 13  # of a thumbnail
    low, high = low - 0.6 * side, high + 0.6 * side
    height = WIDTH * (high - low)[1] / (high - low)[0]
    figure = new_figure(WIDTH, 2 * height + 1.3)
    pairs, thumbnails = figure.subplots(2, 1)
    pairs.plot(*np.stack([of_images, of_texts]).transpose(2, 0, 1), color="0.8", linewidth=0.6, zorder=1)
    pairs.scatter(*of_images.T, s=16, color=BLUE, marker="o", linewidth=0, label="image", zorder=2)
    pairs.scatter(*of_texts.T, s=20, color=ORANGE, marker="x", linewidth=1.2, label="its first caption", zorder=2)
    plain_legend(pairs, loc="upper left", bbox_to_anchor=(0, 0), ncols=2, borderaxespad=0.2)
    pairs.set_title(f"{len(chosen):,} images, each with a line to a caption ({method})", **TITLE)
    pairs.set_xlabel(f"the means, {gap:.2f} apart, are subtracted", fontsize=8.5, loc="right")
    thumbnails.set_title("the images on the same map", **TITLE)
    for place in uncrowded(of_images, 1.02 * side):
        image = resized(result.read_image(chosen[place]))
        (x, y), (dx, dy) = of_images[place], np.array(image.size) / max(image.size) * side / 2
        thumbnails.imshow(image, extent=(x - dx, x + dx, y - dy, y + dy))
    for axes in (pairs, thumbnails):
        _bare(axes)
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    save_figure(figure, path)


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


def _bare(axes):
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("0.85")
