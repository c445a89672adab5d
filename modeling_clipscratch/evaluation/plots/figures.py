"""Make figures of one style, without the global state of pyplot, and save them as PNG files.

Colours are Okabe and Ito's, shades have one hue, so they differ for colour-blind people and in grey print. Lines also
differ in dashes and markers, right and wrong in a sign.
"""

import functools
import logging
import warnings
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, fontManager, get_font
from matplotlib.text import Text
from PIL import Image

from ...utils.atomic_files import write_whole

logger = logging.getLogger(__name__)

BLUE, VERMILLION, BLACK, GREEN, ORANGE, PURPLE = "#0072B2", "#D55E00", "#000000", "#009E73", "#E69F00", "#CC79A7"
SKY = "#56B4E9"
COLOURS = (BLUE, VERMILLION, BLACK, GREEN, ORANGE, PURPLE, SKY)
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
WIDTH = 8.0  # inches of a grid; wider ones cannot be read on a phone
SIDE = 224  # pixels that the longer side of an image in a figure has
SMALL = 64  # pixels up to which images are enlarged without smoothing, as the model reads them
FONT = "DejaVu Sans"
DPI = 130


def new_figure(width: float, height: float, *, layout: str = "constrained") -> Figure:
    """Make a figure of a size in inches; `layout="compressed"` is for axes of fixed proportions."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a PNG, whole or not at all, with fonts that have the characters of its texts."""
    for text in figure.findobj(Text):
        missing = {ord(character) for character in text.get_text() if not character.isspace()} - _characters(
            findfont(FONT)
        )
        if missing:
            text.set_fontfamily([FONT, *_families(frozenset(missing))])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # `_families` logs it
        write_whole(path, lambda temporary: figure.savefig(temporary, format="png"))


@functools.cache
def _families(missing):
    """The family of the installed font that has most of the characters, if one has any."""
    installed = [entry for entry in fontManager.ttflist if not entry.name.startswith("Last Resort")]  # draws boxes
    best = max(installed, key=lambda entry: len(missing & _characters(entry.fname)))
    left = missing - _characters(best.fname)
    if left:
        logger.warning(
            "no installed font has %s, drawn as boxes; install one, for example one of the Noto fonts.",
            ", ".join(map(chr, sorted(left)[:5])),
        )
    return [best.name] if len(left) < len(missing) else []


@functools.cache
def _characters(path):
    try:
        return frozenset(get_font(path).get_charmap())
    except (OSError, RuntimeError):  # matplotlib's list of fonts may be older than the fonts
        return frozenset()


def shortened(text: str, longest: int) -> str:
    """Put a text on one line of at most `longest` characters.

    >>> shortened("a very  long name", 10)
    'a very lo…'
    """
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def spread(indices: np.ndarray, most: int) -> list[int]:
    """Choose at most `most` of the indices, evenly spread over them.

    >>> spread(np.arange(10), 4)
    [0, 3, 6, 9]
    """
    if len(indices) <= most:
        return indices.tolist()
    return indices[np.linspace(0, len(indices) - 1, most).round().astype(int)].tolist()


def title(where, text: str, *, size: float = 11, **options) -> None:
    """Set a bold title of a figure or sub-figure; a `$` in a name is a dollar sign."""
    where.suptitle(text, fontsize=size, fontweight="bold", parse_math=False, **options)


def resized(image) -> Image.Image:
    """An image or a uint8 array (H, W, 3) -> RGB whose longer side has `SIDE` pixels."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    how = Image.Resampling.NEAREST if max(image.size) <= SMALL else Image.Resampling.LANCZOS
    return image.convert("RGB").resize(size, how)


def show(axes, image, colour: str = "0.8", dashes: str = "-") -> None:
    """Draw an image in a frame."""
    axes.imshow(resized(image))
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=2.5, linestyle=dashes)


def look(number: int) -> dict[str, str]:
    """Colour and marker of the n-th line; 49 lines differ in one or the other, neighbours in both."""
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
    """A legend without a frame; a `$` is a dollar sign."""
    legend = where.legend(*args, fontsize=8, frameon=False, **options)
    for text in legend.get_texts():
        text.set_parse_math(False)
