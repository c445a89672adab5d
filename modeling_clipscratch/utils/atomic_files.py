"""Write files and folders atomically: the old content stays until all of the new is on disk."""

import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from .errors import ClipScratchError
from .names import first_line, printable

_PART = ".part"  # ends the names of what is being written


class WriteError(OSError):
    """A write that failed. The message names the place."""


@contextmanager
def explaining_failures(place: str | Path, *, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn a failed write into a `WriteError`; `also` names errors besides `OSError` and `SafetensorError`."""
    try:
        yield
    except FileNotFoundError:  # it names a file that was to be read
        raise
    except (OSError, SafetensorError, *also) as error:
        cause = error.__cause__ if isinstance(error, WriteError) else error
        reason = getattr(cause, "strerror", None) or first_line(cause)
        raise WriteError(
            f"{place} cannot be written ({reason}), and what was there before is kept; make room, change its "
            "permissions or choose another place."
        ) from cause


def write_text(path: str | Path, text: str) -> None:
    """Write a text atomically, with `\\ufffd` for what UTF-8 cannot hold, such as bytes of a file name."""
    write_whole(path, lambda temporary: temporary.write_text(printable(text), encoding="utf-8"))


def write_whole(path: str | Path, write: Callable[[Path], object], *, folder: bool = False) -> None:
    """Call `write(temporary path)` and move the result to `path`. A `folder` that is there must be empty."""
    target = Path(path).resolve()
    with explaining_failures(path), _temporary_folder(target.parent, target.name) as temporary:
        new = temporary / target.name
        if folder:
            new.mkdir()
        write(new)
        to_disk(new)
        os.replace(new, target)


@contextmanager
def replacing_files(folder: str | Path, *, last: str) -> Iterator[Path]:
    """Yield a temporary folder whose files replace those of the same names in `folder` at the end.

    The file `last` vouches for the others: the old one is deleted first, the new one comes last.
    """
    folder = Path(folder)
    with explaining_failures(folder), _temporary_folder(folder, "new") as temporary:
        yield temporary
        to_disk(temporary)
        names = sorted(path.relative_to(temporary) for path in temporary.rglob("*") if path.is_file())
        (folder / last).unlink(missing_ok=True)
        for name in sorted(names, key=lambda name: name == Path(last)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary / name, folder / name)


def check_new_folder(option: str, path: str | Path) -> None:
    """Raise `ClipScratchError` if something else than an empty folder is at `path`."""
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ClipScratchError(f"{option}={path} exists already; delete it, or choose another name.")


def to_disk(path: Path) -> None:
    """Flush a file, or a folder with all its files, to disk, and let others read what the umask allows them to."""
    mask = os.umask(0)
    os.umask(mask)
    for entry in [*path.rglob("*"), path]:
        entry.chmod((0o777 if entry.is_dir() else 0o666) & ~mask)  # safetensors writes files for their owner only
        descriptor = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _temporary_folder(parent, name):
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f".{glob.escape(name)}-????????{_PART}"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    options = {"dir": parent, "prefix": f".{name}-", "suffix": _PART, "ignore_cleanup_errors": True}
    with tempfile.TemporaryDirectory(**options) as folder:
        yield Path(folder)
