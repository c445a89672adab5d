"""Look at local files before they are read: what kind they are, and whether JSON is whole."""

import codecs
import json
import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from ..hub.errors_clipscratch import ClipScratchError
from .names import is_junk_folder

Listing = Mapping[str, Sequence[str]]  # folder below the dataset's, "" for itself -> names of its files


def is_special(path: str | Path) -> bool:
    """Whether a path is a pipe, socket or device, which may never end or never begin to give bytes.

    >>> is_special("/dev/null"), is_special("photos"), is_special("no such file")
    (True, False, False)
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def check_regular(path: str | Path) -> None:
    """Check that a path is no pipe, socket or device.

    Raises:
        ClipScratchError: If it is one.
    """
    if is_special(path):
        raise ClipScratchError(
            f"{path}: is a pipe, socket or device, which is not read; remove it, or give a regular file."
        )


def stamp(path: str) -> tuple[int, int]:
    """Size and time of a file, which change where its content does. Raises: OSError."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def refuse_unreadable(error: OSError) -> None:
    """What `os.walk` calls for a folder that cannot be read: to pass over it would drop all that it holds.

    Raises:
        ClipScratchError: If the folder is there.
    """
    if not isinstance(error, FileNotFoundError):
        raise ClipScratchError(
            f"{error.filename}: this folder cannot be read ({error.strerror}); mend its permissions."
        )


def walk_files(folder: str | Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder below one, as a path relative to it with `/`, and the sorted names of its files; itself first.

    Links to folders are followed, but for those that lead back up. What file managers leave behind is left out.

    Raises:
        ClipScratchError: If a folder cannot be read.
    """
    root = str(folder)
    above = {root: {os.path.realpath(root)}}  # folder -> where it and all over it really lie
    for parent, subfolders, files in os.walk(root, onerror=refuse_unreadable, followlinks=True):
        real = {name: os.path.realpath(os.path.join(parent, name)) for name in subfolders if not is_junk_folder(name)}
        subfolders[:] = sorted(name for name, place in real.items() if place not in above[parent])
        above |= {os.path.join(parent, name): above[parent] | {real[name]} for name in subfolders}
        yield parent[len(root) :].strip(os.sep).replace(os.sep, "/"), sorted(files)


def list_files(listing: Listing) -> list[str]:
    """The files of a listing, as paths with `/`.

    >>> list_files({"": ["a.csv"], "photos/old": ["0.png"]})
    ['a.csv', 'photos/old/0.png']
    """
    return [f"{inside}/{file}".lstrip("/") for inside, files in listing.items() for file in files]


def read_json(path: str | Path) -> dict:
    """Read the JSON object of a file.

    Raises:
        ClipScratchError: If the file holds something else, naming it.
    """
    check_regular(path)
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of JSON or UTF-8
        raise ClipScratchError(f"{path} is damaged ({error}); copy or write it again.") from error
    if not isinstance(content, dict):
        raise ClipScratchError(f"{path} is damaged (its JSON is no object in braces); copy or write it again.")
    return content


def decode_text(data: bytes) -> str | None:
    r"""Text of a file in UTF-8 or, with a byte-order mark, UTF-16; `None` if it is neither.

    >>> decode_text(b"\xef\xbb\xbfa caf\xc3\xa9"), decode_text(b"a caf\xe9")
    ('a café', None)
    """
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text  # UTF-16 without the mark, or UTF-32


def lfs_pointer(data: bytes) -> bool:
    """Whether the beginning of a file is that of a Git LFS pointer, which stands for a file that was not fetched.

    >>> lfs_pointer(b"version https://git-lfs.github.com/spec/v1\\noid sha256:"), lfs_pointer(b"version 1")
    (True, False)
    """
    return data.startswith(b"version https://git-lfs.github.com/spec/")


def read_text(path: str | Path) -> str:
    """Read a text file, of UTF-8 or, with a byte-order mark, UTF-16.

    Raises:
        ClipScratchError: If the file is something else, naming the line.
    """
    check_regular(path)
    data = Path(path).read_bytes()
    if lfs_pointer(data):
        raise ClipScratchError(f"{path}: is a Git LFS pointer, which git lfs pull replaces with the file.")
    if (text := decode_text(data)) is None:
        line = data.decode(errors="replace").partition("\ufffd")[0].count("\n") + 1
        raise ClipScratchError(f"{path}, line {line}: is no UTF-8; save the file as UTF-8 (iconv -f latin1 -t utf-8).")
    return text


def file_of_cell(folder: str | Path, cell: str) -> str:
    """Join the path in a cell of a table to the table's folder.

    Backslashes, which separate folders on Windows only, are read as slashes where that finds the file.
    """
    path = os.path.join(folder, cell)  # a Path costs ten times as much
    if "\\" in cell and not os.path.exists(path):
        slashed = os.path.join(folder, cell.replace("\\", "/"))
        path = slashed if os.path.exists(slashed) else path
    return path


def is_inside(path: str | Path, folder: str | Path) -> bool:
    """Whether a path, as it is spelled, leads into a folder. Links in the folder count as what they are called there.

    >>> is_inside("photos/0.png", "photos"), is_inside("photos/../0.png", "photos")
    (True, False)
    """
    return os.path.abspath(path).startswith(_spellings(os.path.abspath(folder)))


@lru_cache(maxsize=16)  # a table asks for each of its rows
def _spellings(folder: str) -> tuple[str, str]:
    return os.path.join(folder, ""), os.path.join(os.path.realpath(folder), "")


def backslash_hint(path: str) -> str:
    """What to add to a sentence about a file that is not there."""
    return " (backslashes separate folders on Windows only: write slashes)" if "\\" in path and os.sep == "/" else ""


def same_files(paths: Iterable[str]) -> Iterator[str]:
    """Yield for each path a name that is equal for all spellings of one file, and different for different files.

    Spellings differ by `.`, `..`, links to folders and, where the file system does not tell them apart, by case or
    by how Unicode composes a letter. A link to a file counts as a file of its own: datasets that keep equal files
    once are made of such links.
    """
    folders: dict[str, str] = {}
    first: dict[str, str] = {}
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        place = os.path.join(folders[folder], name)
        other = first.setdefault(unicodedata.normalize("NFC", place).casefold(), place)
        same = other != place and os.path.exists(place) and os.path.exists(other) and os.path.samefile(other, place)
        yield other if same else place
