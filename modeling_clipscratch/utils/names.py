"""A name goes in, of a data set, a model, a file or a folder; what it is, or how it may be shown, comes out."""

import os.path
import re
from collections.abc import Sequence
from pathlib import PureWindowsPath

from ..hub.errors_clipscratch import ClipScratchError


def is_local(given: str) -> bool:
    """Whether a name is a place on this machine rather than a Hub id.

    >>> is_local("/data/birds"), is_local("~/birds"), is_local("clip-benchmark/wds_flickr8k")
    (True, True, False)
    """
    drive = PureWindowsPath(given).drive != ""
    return given.startswith((".", "~", "/", "\\")) or drive or os.path.exists(given)


def printable(name: str) -> str:
    """Names of files may hold bytes that are no UTF-8, which Python keeps as surrogates, and characters that move a
    terminal's cursor or change its colours; those become `\\ufffd`.

    >>> printable("caf\\udce9.jpg") == "caf\\ufffd.jpg"
    True
    """
    return re.sub("[\ud800-\udfff\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", name)


def on_one_line(name: str) -> str:
    """
    >>> on_one_line("a name\\n of two lines")
    'a name of two lines'
    """
    return printable(" ".join(name.split()))


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without its stop, for use within a sentence.

    >>> first_line(OSError("No space left.\\nmore"))
    'No space left'
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def is_junk_folder(name: str) -> bool:
    """Whether a folder is one that file managers and notebooks leave behind.

    >>> is_junk_folder("__MACOSX"), is_junk_folder("@eaDir"), is_junk_folder(".thumbnails"), is_junk_folder("@ann")
    (True, True, True, False)
    """
    return name.startswith(".") or name in ("__MACOSX", "@eaDir", "@tmp", "@Recycle", "#recycle")


def public_name(given: str) -> str:
    """A Hub id as it is; of a place on this machine its last part, so that no path gets into what is published.

    >>> public_name("/home/ann/birds/"), public_name("clip-benchmark/wds_flickr8k"), public_name("digits")
    ('birds', 'clip-benchmark/wds_flickr8k', 'digits')
    """
    return PureWindowsPath(given).name if is_local(given) else given


def once_each(what: str, names: Sequence[str]) -> None:
    """Raises: ClipScratchError if a name is given twice."""
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise ClipScratchError(f"{what} {twice} is named twice; name each once.")
