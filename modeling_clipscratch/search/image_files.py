"""A folder goes in; the pictures below it come out: names with size and time, then, read ahead, digests and pixels."""

import logging
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.images.decode import BadImageError, decode_image, is_image_name, is_unread_name, warn_of_unread
from ..data.images.read_ahead import read_ahead
from ..hub.errors_clipscratch import ClipScratchError
from ..utils.local_files import walk_files
from .vectors import digest_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Read:
    """One file that was read. `pixels` (H, W, 3) uint8 are `None` where they were not needed or `error` says why."""

    name: str
    digest: str = ""
    pixels: np.ndarray | None = None
    error: BadImageError | None = None


def list_pictures(folder: Path) -> dict[str, tuple[int, int]]:
    """Name below the folder, with `/` -> (bytes, time of the last change in ns), in the order of the names.

    Links to folders are followed, but for those that lead back up. Pictures of a kind that is not read are counted in
    a warning. So are pipes, sockets and devices that are called like pictures.

    Raises: ClipScratchError if the folder, or one inside it, cannot be read, or if no picture is there.
    """
    if not folder.is_dir():
        raise ClipScratchError(f"{folder} is not a folder; give the one that holds the pictures.")

    unread, special, stamps = [], [], {}
    for inside, files in walk_files(folder):
        unread += [str(folder / inside / file) for file in files if is_unread_name(file)]
        for path in (folder / inside / file for file in files if is_image_name(file)):
            try:
                status = path.stat()
            except FileNotFoundError:  # taken away in this moment, or a link to nowhere
                continue
            if stat.S_ISREG(status.st_mode):
                stamps[path.relative_to(folder).as_posix()] = (status.st_size, status.st_mtime_ns)
            else:
                special.append(path)
    warn_of_unread(unread)
    if special:
        logger.warning("%d pipes, sockets or devices (%s, ...) are no pictures and left out.", len(special), special[0])
    if not stamps:
        raise ClipScratchError(
            f"{folder} holds no picture, nor does any folder in it; give one with .jpg, .png, ... files."
        )
    return dict(sorted(stamps.items()))


def read_pictures(
    folder: Path, names: Sequence[str], preprocess, is_known: Callable[[str], bool], *, batch_size: int
) -> Iterator[list[Read]]:
    """Batches in the order of the names; the next is read while the caller works on this one.

    Args:
        preprocess: a `data.pixels.Preprocess`.
        is_known: digest -> whether the pixels of such a content are not needed.
    """

    def read(name):
        path = folder / name
        digest = ""
        try:
            digest = digest_of(data := path.read_bytes())
            if is_known(digest):
                return Read(name=name, digest=digest)
            return Read(name=name, digest=digest, pixels=preprocess(decode_image(data, name=str(path))))
        except BadImageError as error:
            return Read(name=name, digest=digest, error=error)
        except OSError as error:
            return Read(
                name=name, error=BadImageError(f"{path}: cannot be read ({error.strerror}); mend or remove it.")
            )

    return read_ahead(read, names, batch_size)
