"""Recognise names of local paths, and make names and messages safe to show on one line."""

import os.path
import re
from collections.abc import Sequence
from pathlib import Path

from .errors import ClipScratchError


def is_local(name: str) -> bool:
    """Return whether a name is a path on this machine rather than a Hub id."""
    return name.startswith((".", "~", "/")) or os.path.exists(name)


def public_name(name: str) -> str:
    """Return a Hub id unchanged, and the last part of a local path, so that no path is published.

    >>> public_name("/home/ann/birds/"), public_name("clip-benchmark/wds_flickr8k"), public_name("digits")
    ('birds', 'clip-benchmark/wds_flickr8k', 'digits')
    """
    return Path(name).name if is_local(name) else name


def printable(name: str) -> str:
    """Replace lone surrogates (bytes that are not UTF-8) and terminal control characters by `\\ufffd`."""
    return re.sub("[\ud800-\udfff\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", name)


def on_one_line(text: str) -> str:
    """Return printable text without line breaks."""
    return printable(" ".join(text.split()))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message without its full stop, for use within a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def once_each(kind: str, names: Sequence[str]) -> None:
    """Raise `ClipScratchError` if a name is given twice."""
    duplicate = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if duplicate is not None:
        raise ClipScratchError(f"{kind} {duplicate} is named twice; name each once.")
