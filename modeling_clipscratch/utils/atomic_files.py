"""Write files and folders whole or not at all: what was there stays until all of the new is on disk."""

import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from ..hub.errors_clipscratch import ClipScratchError
from .names import printable

_PART = ".part"  # ends the names of what is being written


class WriteError(OSError):
    """A write that failed. The message names the place and the free space."""


@contextmanager
def explaining_failures(
    place: str | Path,
    *,
    remedy: str = "make room, change its permissions or choose another place.",
    also: tuple[type[Exception], ...] = (),
) -> Iterator[None]:
    """Turn a failed write, whichever library made it, into one sentence that names the place and the free space.

    Args:
        place: File or folder that is written.
        remedy: End of the sentence.
        also: Further errors that a failed write raises.

    Raises:
        WriteError: If an `OSError` or a `SafetensorError`, which is what safetensors raises on a full disk, is raised
            inside. A `FileNotFoundError` is raised as it is.
    """
    try:
        yield
    except FileNotFoundError:  # something that was to be read; it names the file
        raise
    except (OSError, SafetensorError, *also) as error:
        cause = error.__cause__ if isinstance(error, WriteError) else error
        reason = getattr(cause, "strerror", None) or (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise WriteError(
            f"{place} cannot be written ({reason}; {free_space(place)} free there), and what was there before is kept; "
            f"{remedy}"
        ) from cause


def free_space(place: str | Path) -> str:
    """How much may still be written at a place, whether it is there yet or not, such as `12 MB`."""
    there = next(path for path in (Path(place).absolute(), *Path(place).absolute().parents) if path.exists())
    return f"{shutil.disk_usage(there).free / 1e6:,.0f} MB"


def write_text(path: str | Path, text: str) -> None:
    """Write a text whole or not at all, with `\\ufffd` for what UTF-8 cannot hold, such as bytes of a file's name."""
    write_whole(path, lambda temporary: temporary.write_text(printable(text), encoding="utf-8"))


def write_whole(path: str | Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary path)` and move the outcome to `path`, so that a reader sees the old file or the new one.

    Raises:
        WriteError: If that fails; the old file is kept.
    """
    path = Path(path)
    with explaining_failures(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear(path)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=_PART)
        os.close(handle)
        try:
            write(Path(name))
            to_disk(Path(name))
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def check_new_folder(option: str, path: str | Path) -> None:
    """Check that nothing but an empty folder is at `path`.

    Raises:
        ClipScratchError: If something else is there.
    """
    path = Path(path)
    if path.is_mount():
        raise ClipScratchError(
            f"{option}={path} is where a disk is mounted and cannot be replaced; choose a folder in it."
        )
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists():
        raise ClipScratchError(f"{option}={path} is there already; delete it, or choose another name.")


def write_new_folder(path: str | Path, fill: Callable[[Path], object]) -> None:
    """Call `fill(temporary folder)` beside `path` and rename it, so that no reader sees a part of it.

    Raises:
        WriteError: If that fails; nothing is left there.
    """
    target = Path(path).resolve()  # through a link: a rename would meet the link, not the folder
    with explaining_failures(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _temporary_folder(target.parent, target.name) as beside:
            fill(beside)
            to_disk(beside)
            os.replace(beside, target)


@contextmanager
def replacing_files(folder: str | Path, *, last: str, **options) -> Iterator[Path]:
    """Yield a temporary folder whose files replace those of the same names in `folder` at the end.

    Until then, and if an error is raised inside, `folder` is as it was.

    Args:
        last: Name of the file that vouches for the others: the old one is deleted first, the new one comes last.
        options: Of `explaining_failures`.

    Raises:
        WriteError: If a write fails.
    """
    folder = Path(folder)
    with explaining_failures(folder, **options):
        folder.mkdir(parents=True, exist_ok=True)
        with _temporary_folder(folder, "new") as inside:
            yield inside
            to_disk(inside)
            names = sorted(path.relative_to(inside) for path in inside.rglob("*") if path.is_file())
            for name in names:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / last).unlink(missing_ok=True)
            for name in sorted(names, key=lambda name: name == Path(last)):
                os.replace(inside / name, folder / name)


@contextmanager
def _temporary_folder(parent, name):
    _clear(parent / name)
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=f".{name}-", suffix=_PART))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _clear(path):
    """Delete what a killed process left of writing `path`."""
    for left in path.parent.glob(f".{glob.escape(path.name)}-????????{_PART}"):
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


def to_disk(path: Path) -> None:
    """Bring a file, or a folder with all in it, to disk. Temporary ones are for their owner only; mend that, too."""
    mask = os.umask(0)
    os.umask(mask)
    for made in [*path.rglob("*"), path]:
        made.chmod((0o777 if made.is_dir() else 0o666) & ~mask)
        descriptor = os.open(made, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
