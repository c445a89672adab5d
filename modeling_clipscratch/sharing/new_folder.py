"""A name and a function that fills a folder go in; the folder comes out, whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def check_new_folder(option: str, path: str | Path) -> None:
    """Raises: ValueError if something is there already, but for an empty folder."""
    path = Path(path)
    if path.is_mount():
        raise ValueError(f"{option}={path} is where a disk is mounted and cannot be replaced; choose a folder in it.")
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists():
        raise ValueError(f"{option}={path} is there already; delete it, or choose another name.")


def write_new_folder(path: str | Path, fill: Callable[[Path], object]) -> None:
    """Calls `fill(temporary folder)` beside `path` and renames it: no reader sees a part of it."""
    path = Path(path).resolve()  # through a link: a rename would meet the link, not the folder
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        fill(beside)
        mask = os.umask(0)
        os.umask(mask)
        beside.chmod(0o777 & ~mask)  # mkdtemp makes folders that only their owner may read, safetensors such files
        for made in beside.rglob("*"):
            made.chmod((0o777 if made.is_dir() else 0o666) & ~mask)
        os.replace(beside, path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
