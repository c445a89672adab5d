"""Plot image embeddings in the plane, similar ones close to each other."""

from pathlib import Path

import numpy as np
from sklearn.manifold import TSNE

from ..evaluate_dataset import Result
from .figures import WIDTH, new_figure, plain_legend, save_figure, shortened, spread, title

MOST_POINTS = 2000  # images; t-SNE of more takes minutes
FEWEST = 50  # images; t-SNE of fewer shows more of its start than of them
# Ten classes differ in colour and marker; the colours are for colour-blind readers, too (Petroff, arXiv 2107.02270).
COLOURS = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")


def plot_embeddings(result: Result, path: str | Path) -> None:
    """Plot each image of class data as a point with the look of its class.

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
    _draw_classes(axes, places, result.outcomes.labels[chosen], result.class_names)
    plain_legend(figure, loc="outside right upper", markerscale=1.4)
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
