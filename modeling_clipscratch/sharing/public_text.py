"""Remove the paths of this machine from the texts of what is published."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from tempfile import TemporaryDirectory

from ..utils.checksums import SUMS, read_sums, sha256
from ..utils.model_files import is_of_a_model
from ..utils.names import is_local, public_name

_TEXTS = (".json", ".yaml", ".md", ".html", ".csv")
_START = r"(?:(?:~|\.\.?)?/|[A-Za-z]:[\\/])"
# Between quotes (of HTML, too), or as a whole value of YAML, a path may hold spaces.
_QUOTED = rf"(?:(?<=[\"'`])|(?<=&#39;)|(?<=&quot;)){_START}[^\"'`&\n]*[\\/][^\"'`&\n]*(?=[\"'`&])"
_VALUE = rf"(?:(?<=: )|(?<=- )){_START}[^\n:]*[\\/][^\n:]*$"
# Elsewhere it ends before a space. Base64 and web addresses have other characters before the slash.
_BARE = rf"(?<![^\s(\[{{>=]){_START}(?:[^\s\"'`<>|*?()\[\]{{}},;&\\/]+[\\/])+[^\s\"'`<>|*?()\[\]{{}},;&]*"
_PATH = re.compile(f"{_QUOTED}|{_VALUE}|{_BARE}", re.MULTILINE)


def hide_paths(text: str, recipe: Mapping) -> str:
    """Replace each absolute path, and each one below `~`, `.` or `..`, by its last part.

    Args:
        recipe: Of the run; its values that are folders or files are replaced, too, if they are relative paths.

    >>> hide_paths('{"text_tower": "/home/ann/my models/bert", "page": "https://huggingface.co/bert"}', {})
    '{"text_tower": "bert", "page": "https://huggingface.co/bert"}'
    >>> hide_paths("clipscratch eval --model ../runs/digits --dataset=/data/birds/ --split test", {})
    'clipscratch eval --model digits --dataset=birds --split test'
    """
    values = [part for value in recipe.values() for part in (value if isinstance(value, list) else [value])]
    for value in values:
        if isinstance(value, str) and is_local(value) and (name := public_name(value)) not in ("", ".", ".."):
            text = text.replace(value, name)
    return _PATH.sub(lambda match: PureWindowsPath(match[0]).name, text)


@contextmanager
def public_copies(files: Mapping[str, Path], recipe: Mapping) -> Iterator[dict[str, Path]]:
    """Yield the files to publish, with a copy in place of each text that names a path of this machine.

    Args:
        files: {path in the repository: file}. The digests in a `SHA256SUMS` become those of the copies.
        recipe: As for `hide_paths`.
    """
    public, sums = dict(files), {}
    with TemporaryDirectory() as folder:
        for number, (name, path) in enumerate(files.items()):
            if path.suffix in _TEXTS and not is_of_a_model(name):
                text = path.read_text(encoding="utf-8")
                if (hidden := hide_paths(text, recipe)) != text:
                    public[name] = Path(folder, str(number))
                    public[name].write_text(hidden, encoding="utf-8")
                    sums[name] = sha256(public[name])
        if SUMS in files and sums:
            old = read_sums(files[SUMS].parent)
            lines = (f"{sums.get(name, digest)}  {name}\n" for name, digest in old.items())
            public[SUMS] = Path(folder, SUMS)
            public[SUMS].write_text("".join(lines), encoding="utf-8")
        yield public
