"""List the image files below a folder and read them ahead of the model."""

import logging
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.dataset import image_digest
from ..data.images.decode import BadImageError, decode_image, is_image_name, is_unread_name, warn_of_unread
from ..data.images.read_ahead import read_ahead
from ..utils.errors import ClipScratchError
from ..utils.local_files import walk_files

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ImageRead:
    """One file that was read, or the error why not."""

    name: str  # path below the folder, with `/`
    digest: str = ""  # of the file's bytes
    pixels: np.ndarray | None = None  # (H, W, 3) uint8; `None` if they are not needed
    error: BadImageError | None = None


def list_images(folder: Path) -> dict[str, tuple[int, int]]:
    """Return {path below the folder, with `/`: (bytes, time of the last change in ns)}, sorted.

    Links to folders are followed unless they lead back up. One warning counts the images of formats that are not
    read, another one the pipes, sockets and devices with the name of an image.

    Raises:
        ClipScratchError: If the folder, or one in it, cannot be read, or no image is there.
    """
    if not folder.is_dir():
        raise ClipScratchError(f"{folder} is not a folder; give the one that holds the images.")
    unread, special, stamps = [], [], {}
    for inside, files in walk_files(folder):
        unread += [str(folder / inside / file) for file in files if is_unread_name(file)]
        for path in (folder / inside / file for file in files if is_image_name(file)):
            try:
                status = path.stat()
            except FileNotFoundError:  # deleted since it was listed, or a broken link
                continue
            if stat.S_ISREG(status.st_mode):
                stamps[path.relative_to(folder).as_posix()] = (status.st_size, status.st_mtime_ns)
            else:
                special.append(path)
    warn_of_unread(unread)
    if special:
        logger.warning("%d pipes, sockets or devices (%s, ...) are left out.", len(special), special[0])
    if not stamps:
        raise ClipScratchError(f"{folder} and the folders in it hold no image; give one with .jpg, .png, ... files.")
    return dict(sorted(stamps.items()))


def read_images(
    folder: Path,
    names: Sequence[str],
    preprocess,
    *,
    batch_size: int,
    is_known: Callable[[str], bool] = lambda digest: False,
) -> Iterator[list[ImageRead]]:
    """Yield batches in the order of the names; the next one is read while the caller works on this one.

    Args:
        preprocess: A `Preprocess` of the model's image processor.
        is_known: Whether the pixels of a file with this digest are not needed.
    """

    def read(name):
        path, digest = folder / name, ""
        try:
            digest = image_digest(data := path.read_bytes())
            if is_known(digest):
                return ImageRead(name=name, digest=digest)
            return ImageRead(name=name, digest=digest, pixels=preprocess(decode_image(data, name=str(path))))
        except BadImageError as error:
            return ImageRead(name=name, digest=digest, error=error)
        except OSError as error:
            reason = f"{path}: cannot be read ({error.strerror}); change its permissions or remove it."
            return ImageRead(name=name, error=BadImageError(reason))

    return read_ahead(read, names, batch_size)
