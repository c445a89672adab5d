"""Remove the paths of this machine from the texts of what is published."""

import re
from collections.abc import Mapping
from pathlib import Path

from ..utils.names import is_local, is_of_a_model, public_name

_TEXTS = (".json", ".yaml", ".md", ".html", ".csv")
# In base64 and web addresses another character is before the slash.
_START, _END = r"(?<![^\s\"'`(\[{>=;])(?:~|\.{1,2})?/", r"[^\s\"'`<>|()\[\]{},;&/]"
_PATH = re.compile(rf"{_START}(?:{_END}+/)*({_END}+)/(?:({_END}+)|(?!{_END}))")


def hide_paths(text: str, recipe: Mapping) -> str:
    """Replace each absolute path, and each one below `~`, `.` or `..`, by its last part.

    The values of the run's recipe that are folders or files are replaced first: they may be relative, or hold spaces.

    >>> hide_paths("clipscratch eval --model ../runs/digits --dataset=/data/birds/ --split test", {})
    'clipscratch eval --model digits --dataset=birds --split test'
    """
    values = [part for value in recipe.values() for part in (value if isinstance(value, list) else [value])]
    for value in values:
        if isinstance(value, str) and is_local(value) and (name := public_name(value)) not in ("", ".", ".."):
            text = text.replace(value, name)
    return _PATH.sub(lambda match: match[2] or match[1], text)


def public_content(name: str, path: Path, recipe: Mapping) -> Path | bytes:
    """Return what to publish of a file as `name`: its path, or its text where that names a path of this machine."""
    if path.suffix not in _TEXTS or is_of_a_model(name):
        return path
    text = path.read_text(encoding="utf-8")
    public = hide_paths(text, recipe)
    return path if public == text else public.encode()
