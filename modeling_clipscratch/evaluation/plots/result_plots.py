"""Draw every plot that a `Result` has data for, with a sentence on how to read it."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.ticker import MaxNLocator
from sklearn.manifold import TSNE

from ...data.dataset import ImageReader
from ..evaluate_dataset import Result
from ..metrics.outcomes import CALIBRATION, CALIBRATION_BINS, ClassOutcomes, calibration_bins, share_interval
from ..metrics.ranking import cosines
from ..report.metric_tables import percent
from .figures import BLACK, BLUE, BOLD, VERMILLION, WIDTH, new_figure, plain_legend, save_figure, show, tidy

MOST_TICKS = 40  # class names on an axis; more cannot be read
MOST_COUNTS = 20  # classes whose counts are written into the cells
COLUMNS = 5  # of a grid of images
MOST_IMAGES = 10  # of a grid of predictions
SEARCHES = 6  # of a grid of searches
MOST_POINTS = 2000  # images; t-SNE of more takes minutes
FEWEST_POINTS = 50  # images; t-SNE of fewer shows more of its start than of them
# Ten classes differ in colour and marker; the colours are for colour-blind readers, too (Petroff, arXiv 2107.02270).
TEN_COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
TEN_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")


def draw_plots(result: Result, folder: Path) -> list[tuple[Path, str, str]]:
    """Draw the plots into a folder, and return path, title and how to read it; without those that lack data."""
    plots = _CAPTION if result.class_names is None else _CLASS
    for name, (draw, _, _) in plots.items():
        draw(result, folder / name)
    return [(folder / name, *about) for name, (_, *about) in plots.items() if (folder / name).is_file()]


def shortened(text: str, longest: int) -> str:
    """Put a text on one line of at most `longest` characters, the last one `…` if it is cut."""
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def spread(count: int, most: int) -> list[int]:
    """Choose at most `most` of the numbers from 0 to `count` - 1, evenly spread."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


def plot_confusion(confusion: np.ndarray, class_names: Sequence[str], path: str | Path) -> None:
    """Plot true classes down and predicted classes across; shade = share of the true class, number = count."""
    classes = len(class_names)
    shares = 100 * confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    labelled, counted = classes <= MOST_TICKS, classes <= MOST_COUNTS
    size = min(max(4.2, 0.42 * classes + 1.8), 14.0) if labelled else 8.0
    # Axes of fixed proportions: with the constrained layout their names would be cut off.
    figure = new_figure(size + 0.8, size, layout="compressed")
    axes = figure.add_subplot()
    # The root of the share: a mistake made once in fifty images would not be seen otherwise.
    cells = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=100), interpolation="nearest")
    bar = figure.colorbar(cells, ax=axes, fraction=0.045, pad=0.03, ticks=[0, 1, 5, 10, 25, 50, 100])
    bar.set_label("% of the true class")
    if labelled:
        style = {"labels": [shortened(name, 22) for name in class_names], "fontsize": 9 if counted else 7}
        axes.set_xticks(range(classes), rotation=90, parse_math=False, **style)
        axes.set_yticks(range(classes), parse_math=False, **style)
    axes.set_xlabel("predicted" if labelled else "predicted (number of the class)")
    axes.set_ylabel("true" if labelled else "true (number of the class)")
    for row, column in np.argwhere(confusion) if counted else ():
        colour = "white" if shares[row, column] > 30 else "black"
        axes.text(column, row, confusion[row, column], ha="center", va="center", fontsize=7, color=colour)
    axes.set_title(
        f"{percent(confusion.trace() / confusion.sum())} of {confusion.sum():,} images right", loc="left", **BOLD
    )
    save_figure(figure, path)


def plot_calibration(outcomes: ClassOutcomes, path: str | Path) -> None:
    """Plot the accuracy in each bin of confidences with its 95 % interval, and below it the number of images."""
    bins = calibration_bins(outcomes.confidence)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    filled = counts > 0
    total = counts[filled]
    accuracy = np.bincount(bins, outcomes.ranks <= 1, CALIBRATION_BINS)[filled] / total
    confidence = np.bincount(bins, outcomes.confidence, CALIBRATION_BINS)[filled] / total
    low, high = share_interval(accuracy, total)
    whiskers = 100 * np.maximum([accuracy - low, high - accuracy], 0)

    figure = new_figure(5.6, 5.8)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 100], [0, 100], color=BLACK, linestyle="--", linewidth=1, label="accuracy = confidence")
    upper.errorbar(100 * confidence, 100 * accuracy, whiskers, color=BLUE, fmt="o", capsize=3, label="accuracy")
    upper.set(ylabel="accuracy, %", xlim=(0, 101), ylim=(-3, 103))
    upper.set_title(f"calibration error {percent(outcomes.metrics()[CALIBRATION])} (mean gap)", loc="left", **BOLD)
    plain_legend(upper, loc="upper left")
    width = 100 / CALIBRATION_BINS
    lower.bar(width * np.arange(CALIBRATION_BINS), counts, width, align="edge", color="0.55", edgecolor="white")
    lower.set(ylabel="images", xlabel="confidence in the predicted class, %")
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    tidy(upper)
    tidy(lower)
    save_figure(figure, path)


def plot_predictions(result: Result, path: str | Path, *, right: bool) -> None:
    """Show the right predictions, or the mistakes, with the highest confidence; without any, no file is written."""
    labels, predicted, confidence = result.outcomes.labels, result.predicted, result.outcomes.confidence
    rows = np.argsort(-confidence, kind="stable")
    rows = rows[(predicted[rows] == labels[rows]) == right]
    colour, dashes, sign, text = VERMILLION, "--", "✗", "wrong, with the highest confidence"
    if right:
        colour, dashes, sign, text = BLUE, "-", "✓", "right, with the highest confidence (the classes in turn)"
        turns, seen = [], Counter()
        for label in labels[rows].tolist():
            seen[label] += 1
            turns.append(seen[label])
        rows = rows[np.argsort(turns, kind="stable")]
    rows = rows[:MOST_IMAGES]
    if len(rows) == 0:
        return
    names, lines, read_image = result.class_names, -(-len(rows) // COLUMNS), ImageReader(result.dataset)
    figure = new_figure(WIDTH, 2.03 * lines + 0.4)
    figure.suptitle(text, **BOLD)
    for place, row in enumerate(rows.tolist(), start=1):
        axes = figure.add_subplot(lines, COLUMNS, place)
        show(axes, read_image(row), colour, dashes)
        answer = f"{sign} {shortened(names[predicted[row]], 12)}, {percent(confidence[row], 0)}"
        axes.set_title(answer, fontsize=9, color=colour, parse_math=False)
        if not right:
            axes.set_xlabel(f"is {shortened(names[labels[row]], 17)}", fontsize=9, parse_math=False)
    save_figure(figure, path)


def plot_embeddings(result: Result, path: str | Path) -> None:
    """Plot the images of class data in the plane, the ten most frequent classes by colour and marker.

    For fewer than 50 images, and if all embeddings are equal, no file is written.
    """
    chosen = spread(len(result.dataset), MOST_POINTS)
    embeds, labels = result.image_embeds[chosen].numpy(), result.outcomes.labels[chosen]
    if len(chosen) < FEWEST_POINTS or np.ptp(embeds, axis=0).max() < 1e-6:
        return
    tsne = TSNE(2, perplexity=min(30, len(embeds) // 4), init="pca", metric="cosine", random_state=0)
    places = tsne.fit_transform(embeds)
    figure = new_figure(WIDTH, 6.0)
    axes = figure.add_subplot()
    shown, counts = np.unique(labels, return_counts=True)
    marked = np.sort(shown[np.argsort(-counts, kind="stable")][: len(TEN_COLOURS)])
    size = 30 if len(labels) <= 500 else 18
    for label, colour, marker in zip(marked, TEN_COLOURS, TEN_MARKERS, strict=False):
        style = {"color": colour, "marker": marker, "edgecolor": "0.2", "linewidth": 0.3, "alpha": 0.85}
        axes.scatter(*places[labels == label].T, s=size, label=shortened(result.class_names[label], 20), **style)
    rest = ~np.isin(labels, marked)
    if rest.any():
        others = f"{len(shown) - len(marked)} other classes"
        axes.scatter(*places[rest].T, s=size / 2, label=others, color="0.8", marker=".", zorder=0)
    plain_legend(figure, loc="outside right upper", markerscale=1.4)
    axes.set(xticks=[], yticks=[])
    text = f"{len(chosen):,} images, similar ones close to each other (t-SNE)"
    figure.suptitle(text, x=0.01, ha="left", **BOLD)
    save_figure(figure, path)


def plot_searches(result: Result, path: str | Path, *, failed: bool = False) -> None:
    """Show captions with their closest images: some of all, or those whose own image has the lowest rank.

    The own image is framed, and last if it is not among the closest. Without captions, no file is written.
    """
    outcomes = result.outcomes
    if failed:
        worst = np.argsort(-outcomes.text_ranks, kind="stable")
        worst = worst[outcomes.text_ranks[worst] > 1]
        _, first = np.unique(outcomes.caption_to_image[worst], return_index=True)  # one caption an image
        captions = worst[np.sort(first)][:SEARCHES]
        text = "captions whose own image (dashed) has the lowest rank"
    else:
        captions = np.searchsorted(outcomes.caption_to_image, spread(len(result.dataset), SEARCHES))
        recall = percent(result.metrics["text_to_image_recall@1"])
        text = f"captions with their closest images; the first is right for {recall} of all"
    if len(captions) == 0:
        return
    texts, read_image = list(chain.from_iterable(result.dataset["captions"][:])), ImageReader(result.dataset)
    scores = cosines(result.text_embeds[captions], result.image_embeds)
    best = scores.topk(min(COLUMNS, len(outcomes))).indices.tolist()
    figure = new_figure(WIDTH, 1.95 * len(captions) + 0.4)
    figure.suptitle(text, **BOLD)
    for band, caption, rows in zip(np.atleast_1d(figure.subfigures(len(captions), 1)), captions, best, strict=True):
        own = int(outcomes.caption_to_image[caption])
        band.suptitle(shortened(texts[caption], 110), fontsize=9.5, x=0.01, ha="left", parse_math=False)
        shown = [(row, f"✓ {place}" if row == own else f"{place}") for place, row in enumerate(rows, start=1)]
        if own not in rows:
            shown[-1] = (own, f"✗ {outcomes.text_ranks[caption]:,} of {len(outcomes):,}")
        for place, (row, below) in enumerate(shown, start=1):
            axes = band.add_subplot(1, COLUMNS, place)
            colour, dashes = {"✓": (BLUE, "-"), "✗": (VERMILLION, "--")}.get(below[0], ("0.8", "-"))
            show(axes, read_image(row), colour, dashes)
            axes.set_xlabel(below, fontsize=9, color="0.35" if colour == "0.8" else colour)
    save_figure(figure, path)


# File -> function, title and how to read it.
_CLASS = {
    "confusion.png": (
        lambda result, path: plot_confusion(result.confusion, result.class_names, path),
        "Confusion",
        "A row is a true class, a column a predicted class; mistakes are off the diagonal.",
    ),
    "calibration.png": (
        lambda result, path: plot_calibration(result.outcomes, path),
        "Calibration",
        "Of the images predicted with 70 % confidence, 70 % should be right: a dot below the dashed line means too "
        "much confidence, above it too little. Whiskers are 95 % intervals; the bars count the images.",
    ),
    "hits.png": (
        partial(plot_predictions, right=True),
        "Best hits",
        "Right predictions with the highest confidence, which is the number.",
    ),
    "misses.png": (
        partial(plot_predictions, right=False),
        "Worst misses",
        "Mistakes with the highest confidence, which is the number.",
    ),
    "embeddings.png": (
        plot_embeddings,
        "Map of embeddings",
        "Images that are close to each other are similar for the model; large distances mean little.",
    ),
}
_CAPTION = {
    "searches.png": (
        plot_searches,
        "Searches by caption",
        "Each caption as a query, with the closest images first; its own image is framed. A dashed frame: the own "
        "image is not among them, and has that rank.",
    ),
    "misses.png": (
        partial(plot_searches, failed=True),
        "Worst misses",
        "Captions whose own image (dashed frame, with its rank) has the lowest rank, after the images closest to them.",
    ),
}
FILES = tuple(_CLASS | _CAPTION)
