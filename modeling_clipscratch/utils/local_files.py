"""Walk folders, and read local text and JSON files that may be damaged or not UTF-8."""

import codecs
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .errors import ClipScratchError

Listing = Mapping[str, Sequence[str]]  # folder relative to the dataset's, "" for itself -> names of its files

_JUNK_FOLDERS = ("__MACOSX", "@eaDir", "@tmp", "@Recycle", "#recycle")  # of macOS and of NAS systems


def stamp(path: str) -> tuple[int, int]:
    """Return the size and modification time of a file, which change when its content does."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def walk_files(folder: str | Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder, relative to `folder` with `/`, and the sorted names of its files; `folder` itself first.

    Links to folders are followed, except links to a parent. Hidden folders and those of file managers are left out.
    """

    def raise_unreadable(error):
        if not isinstance(error, FileNotFoundError):
            raise ClipScratchError(
                f"{error.filename}: this folder cannot be read ({error.strerror}); correct its permissions."
            )

    root = str(folder)
    above = {root: {os.path.realpath(root)}}  # folder -> real paths of itself and its parents
    for parent, subfolders, files in os.walk(root, onerror=raise_unreadable, followlinks=True):
        names = [name for name in subfolders if not name.startswith(".") and name not in _JUNK_FOLDERS]
        real = {name: os.path.realpath(os.path.join(parent, name)) for name in names}
        subfolders[:] = sorted(name for name, path in real.items() if path not in above[parent])
        above |= {os.path.join(parent, name): above[parent] | {real[name]} for name in subfolders}
        yield parent[len(root) :].strip(os.sep).replace(os.sep, "/"), sorted(files)


def list_files(listing: Listing) -> list[str]:
    """Return the files of a listing as relative paths with `/`."""
    return [f"{folder}/{file}".lstrip("/") for folder, files in listing.items() for file in files]


def decode_text(data: bytes) -> str | None:
    """Decode UTF-8 or, with a byte-order mark, UTF-16. Return `None` if the bytes are neither."""
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text  # UTF-16 without the mark, or UTF-32


def is_lfs_pointer(data: bytes) -> bool:
    """Return whether a file begins as a Git LFS pointer, which stands for a file that was not fetched."""
    return data.startswith(b"version https://git-lfs.github.com/spec/")


def read_text(path: str | Path) -> str:
    """Read a text file as `decode_text` does. The error for any other file names the line."""
    data = Path(path).read_bytes()
    if is_lfs_pointer(data):
        raise ClipScratchError(f"{path}: is a Git LFS pointer, which git lfs pull replaces with the file.")
    if (text := decode_text(data)) is None:
        line = data.decode(errors="replace").partition("\ufffd")[0].count("\n") + 1
        raise ClipScratchError(f"{path}, line {line}: is not UTF-8; save the file as UTF-8 (iconv -f latin1 -t utf-8).")
    return text


def read_json(path: str | Path) -> dict:
    """Read the JSON object of a file. Anything else raises `ClipScratchError`."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of JSON or UTF-8
        raise ClipScratchError(f"{path} is damaged ({error}); copy or write it again.") from error
    if not isinstance(content, dict):
        raise ClipScratchError(f"{path} is damaged (its JSON is not an object in braces); copy or write it again.")
    return content


def path_of_cell(folder: str | Path, cell: str) -> str:
    """Join a table's folder and the path in a cell. Backslashes count as slashes where that finds the file."""
    path = os.path.join(folder, cell)  # a Path costs ten times as much
    if "\\" in cell and not os.path.exists(path):
        with_slashes = os.path.join(folder, cell.replace("\\", "/"))
        path = with_slashes if os.path.exists(with_slashes) else path
    return path
