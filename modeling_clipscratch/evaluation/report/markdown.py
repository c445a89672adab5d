"""Write texts of others into Markdown, so that they show as the characters that they are."""

import html
import re

from ...utils.names import on_one_line, printable


class Markdown(str):
    """A text that is Markdown already."""


def escaped(value) -> object:
    r"""Escape a text, on one line; `Markdown` and what is not a text stay as they are.

    >>> escaped("a|b [x](javascript:y) *<script>*")
    'a\\|b \\[x\\](javascript:y) \\*&lt;script&gt;\\*'
    """
    if not isinstance(value, str) or isinstance(value, Markdown):
        return value
    text = printable(re.sub(r"\s+", " ", value))
    text = re.sub(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)
    return Markdown(html.escape(text, quote=False))


def code(text: str) -> Markdown:
    """Put a text on one line between backticks; in a table its `|` has to be escaped.

    >>> code("a ` b")
    '`` a ` b ``'
    """
    text = on_one_line(text)
    marks = "`" * (_longest_run(text) + 1)
    space = " " if text.startswith("`") or text.endswith("`") or "`" in text else ""
    return Markdown(f"{marks}{space}{text}{space}{marks}")


def code_block(text: str, language: str) -> Markdown:
    """Put lines into a block of code that none of them can end."""
    marks = "`" * max(3, _longest_run(text) + 1)
    return Markdown(f"{marks}{language}\n{printable(text)}\n{marks}")


def _longest_run(text):
    return max(map(len, re.findall("`+", text)), default=0)
