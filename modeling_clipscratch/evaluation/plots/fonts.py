"""A figure goes in; texts in a script that matplotlib's own font lacks are set in an installed font that has it."""

import functools
import logging

from matplotlib.font_manager import findfont, fontManager, get_font
from matplotlib.text import Text

logger = logging.getLogger(__name__)

_OWN = "DejaVu Sans"


def choose_fonts(figure) -> None:
    """Changes the figure's texts in place. Characters that no installed font has are named in the log."""
    for text in figure.findobj(Text):
        missing = frozenset(_codes(text.get_text()) - _characters(findfont(_OWN)))
        if missing:
            text.set_fontfamily([_OWN, *_families(missing)])


@functools.cache
def _families(missing):
    """The family of an installed font that has most of the characters, if one has any."""
    installed = [entry for entry in fontManager.ttflist if not entry.name.startswith("Last Resort")]  # draws boxes
    best = max(installed, key=lambda entry: len(missing & _characters(entry.fname)))
    left = missing - _characters(best.fname)
    if left:
        logger.warning(
            "no installed font has %s, which pictures show as boxes; install one, for example one of the Noto fonts.",
            ", ".join(map(chr, sorted(left)[:5])),
        )
    return [best.name] if len(left) < len(missing) else []


@functools.cache
def _characters(path):
    try:
        return frozenset(get_font(path).get_charmap())
    except (OSError, RuntimeError):  # matplotlib's list of fonts may be older than the fonts
        return frozenset()


def _codes(text):
    return {ord(character) for character in text if not character.isspace()}
