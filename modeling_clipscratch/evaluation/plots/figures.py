"""Make figures of one style, without the global state of pyplot, and save them as PNG files.

Colours are Okabe and Ito's, shades have one hue, so they differ for colour-blind people and in grey print. Lines also
differ in dashes and markers, right and wrong in a sign.
"""

from functools import cache
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.text import Text
from PIL import Image

from ...utils.atomic_files import write_whole

BLUE, VERMILLION, BLACK, GREEN, ORANGE, PURPLE = "#0072B2", "#D55E00", "#000000", "#009E73", "#E69F00", "#CC79A7"
COLOURS = (BLUE, VERMILLION, BLACK, GREEN, ORANGE, PURPLE, "#56B4E9")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
WIDTH = 8.0  # inches of a grid; wider ones cannot be read on a phone
SIDE = 224  # pixels that the longer side of an image in a figure has
SMALL = 64  # pixels up to which images are enlarged without smoothing, as the model reads them
DPI = 130
# For characters that the first one lacks; matplotlib comes with that one, the others may be installed.
FONTS = (
    "DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Microsoft YaHei", "Hiragino Sans GB",
    "Arial Unicode MS", "Noto Sans Devanagari", "Noto Sans Thai",
)  # fmt: skip


def new_figure(width: float, height: float, *, layout: str = "constrained") -> Figure:
    """Make a figure of a size in inches; `layout="compressed"` is for axes of fixed proportions."""
    return Figure(figsize=(width, height), dpi=DPI, layout=layout, facecolor="white")


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a PNG, whole or not at all. Characters that no font has are drawn as boxes."""
    for text in figure.findobj(Text):
        text.set_fontfamily(_installed_fonts())
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png"))


@cache
def _installed_fonts() -> list[str]:
    return [name for name in FONTS if name in get_font_names()]


def shortened(text: str, longest: int) -> str:
    """Put a text on one line of at most `longest` characters.

    >>> shortened("a very  long name", 10)
    'a very lo…'
    """
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def spread(count: int, most: int) -> list[int]:
    """Choose at most `most` of the numbers from 0 to `count` - 1, evenly spread.

    >>> spread(10, 4)
    [0, 3, 6, 9]
    """
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


def title(where, text: str, *, size: float = 11, **options) -> None:
    """Set a bold title of a figure or sub-figure; a `$` in a name is a dollar sign."""
    where.suptitle(text, fontsize=size, fontweight="bold", parse_math=False, **options)


def resized(image: Image.Image) -> Image.Image:
    """Resize an RGB image so that its longer side has `SIDE` pixels."""
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if max(image.size) <= SMALL else Image.Resampling.LANCZOS)


def show(axes, image: Image.Image, colour: str = "0.8", dashes: str = "-") -> None:
    """Draw an image in a frame."""
    axes.imshow(resized(image))
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=2.5, linestyle=dashes)


def tidy(axes) -> None:
    """Draw light horizontal lines and no box."""
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, color="0.6")


def plain_legend(where, **options) -> None:
    """Draw a legend without a frame; a `$` is a dollar sign."""
    for text in where.legend(fontsize=8, frameon=False, **options).get_texts():
        text.set_parse_math(False)
