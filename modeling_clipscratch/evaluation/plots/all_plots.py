"""Draw every plot that a `Result` has data for, with a sentence on how to read it."""

from pathlib import Path
from typing import NamedTuple

from ..evaluate_dataset import Result
from .class_plots import plot_calibration, plot_confusion
from .embedding_map import plot_embeddings
from .image_grids import plot_failed_searches, plot_hits, plot_misses, plot_searches

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
    "hits.png": (plot_hits, "Best hits", "Right predictions with the highest confidence, which is the number."),
    "misses.png": (plot_misses, "Worst misses", "Mistakes with the highest confidence, which is the number."),
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
        plot_failed_searches,
        "Worst misses",
        "Captions whose own image (dashed frame, with its rank) has the lowest rank, after the images closest to them.",
    ),
}
FILES = tuple(_CLASS | _CAPTION)


class Plot(NamedTuple):
    """A PNG with its title and a sentence or two on how to read it."""

    path: Path
    title: str
    reading: str


def draw_plots(result: Result, folder: Path) -> list[Plot]:
    """Draw the plots into a folder, the most important first; skip those without data."""
    plots = _CAPTION if result.class_names is None else _CLASS
    for name, (draw, _, _) in plots.items():
        draw(result, folder / name)
    return [Plot(folder / name, *about) for name, (_, *about) in plots.items() if (folder / name).is_file()]
