"""Make figures of one style, without the global state of pyplot, and save them as PNG files.

Colours are Okabe and Ito's, shades have one hue, so they differ for colour-blind people and in grey print. Lines also
differ in dashes and markers, right and wrong in a sign.
"""

from pathlib import Path

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
BOLD = {"fontsize": 11, "fontweight": "bold", "parse_math": False}  # a title; `$` in a name is a dollar sign
# For characters that the first one lacks; matplotlib comes with that one, the others may be installed.
_FONTS = (
    "DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Microsoft YaHei", "Hiragino Sans GB",
    "Arial Unicode MS", "Noto Sans Devanagari", "Noto Sans Thai",
)  # fmt: skip
INSTALLED_FONTS = [name for name in _FONTS if name in get_font_names()]


def new_figure(width: float, height: float, *, layout: str = "constrained") -> Figure:
    """Make a figure of a size in inches; `layout="compressed"` is for axes of fixed proportions."""
    return Figure(figsize=(width, height), dpi=DPI, layout=layout, facecolor="white")


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a PNG, whole or not at all. Characters that no font has are drawn as boxes."""
    for text in figure.findobj(Text):
        text.set_fontfamily(INSTALLED_FONTS)
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png"))


def show(axes, image: Image.Image, colour: str, dashes: str) -> None:
    """Draw an RGB image in a frame, its longer side resized to `SIDE` pixels."""
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = max(image.size) <= SMALL
    axes.imshow(image.resize(size, Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS))
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
