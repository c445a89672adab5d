"""Sizes, texts and pictures go in; figures of one look come out. No global state of pyplot.

Colours are Okabe and Ito's, shades are of one hue, so colour-blind people and grey printers keep them apart; lines
differ in dashes and markers too, right and wrong in a sign too.
"""

import warnings
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ...utils.atomic_files import write_whole
from .fonts import choose_fonts

BLUE, VERMILLION, BLACK, GREEN, ORANGE, PURPLE = "#0072B2", "#D55E00", "#000000", "#009E73", "#E69F00", "#CC79A7"
SKY = "#56B4E9"
COLOURS = (BLUE, VERMILLION, BLACK, GREEN, ORANGE, PURPLE, SKY)
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
WIDTH = 8.0  # inches of a sheet; wider ones cannot be read on a phone
SIDE = 224  # pixels that a small picture is enlarged to, and a large one reduced to
SMALL = 64  # pixels up to which one sees each; enlarged without smoothing, as the model saw them


def new_figure(width: float, height: float, *, layout: str = "constrained") -> Figure:
    """A figure of so many inches on a canvas of its own; `layout` `compressed` is for axes of fixed proportions."""
    figure = Figure(figsize=(width, height), dpi=130, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """One PNG, whole or not at all."""
    choose_fonts(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # `choose_fonts` has said so
        write_whole(path, lambda temporary: figure.savefig(temporary, format="png"))


def shortened(text: str, longest: int) -> str:
    """One line of at most `longest` characters.

    >>> shortened("a very  long name", 10)
    'a very lo…'
    """
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def spread(indices: np.ndarray, most: int) -> list[int]:
    """At most so many of the indices, evenly spread over them.

    >>> spread(np.arange(10), 4)
    [0, 3, 6, 9]
    """
    if len(indices) <= most:
        return indices.tolist()
    return indices[np.linspace(0, len(indices) - 1, most).round().astype(int)].tolist()


def title(where, text: str, *, size: float = 11, **options) -> None:
    """A bold title of a figure or of a part of it; a `$` in a name is a dollar."""
    where.suptitle(text, fontsize=size, fontweight="bold", parse_math=False, **options)


def small(picture) -> Image.Image:
    """A picture or a uint8 array (H, W, 3) -> RGB whose longer side has `SIDE` pixels."""
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(np.asarray(picture))
    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    how = Image.Resampling.NEAREST if max(picture.size) <= SMALL else Image.Resampling.LANCZOS
    return picture.convert("RGB").resize(size, how)


def show(axes, picture, colour: str = "0.8", dashes: str = "-") -> None:
    """Draws a picture in a frame."""
    axes.imshow(small(picture))
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=2.5, linestyle=dashes)


def look(number: int) -> dict[str, str]:
    """Colour and marker of the n-th thing: 49 of them differ in one or the other, neighbours in both."""
    turn = number // len(COLOURS)
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[(number + turn) % len(MARKERS)]}


def tidy(axes) -> None:
    """Light horizontal lines, no box."""
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, color="0.6")
    axes.xaxis.label.set_size(9)
    axes.yaxis.label.set_size(9)


def plain_legend(where, *args, **options) -> None:
    """A legend without a frame, in which a `$` is a dollar."""
    legend = where.legend(*args, fontsize=8, frameon=False, **options)
    for text in legend.get_texts():
        text.set_parse_math(False)
