"""Decode image files of any mode to upright 8-bit RGB, and recognise files by their names."""

import io
import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from ...utils.errors import ClipScratchError
from ...utils.local_files import is_lfs_pointer

logger = logging.getLogger(__name__)

IMAGE_EXTENSIONS = frozenset(
    ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pbm", "avif"]
)
_UNREAD = (".heic", ".heif", ".jxl", ".jp2", ".j2k", ".dng", ".cr2", ".nef", ".arw", ".raw", ".psd", ".svg", ".eps")
_UNREAD += (".tga", ".ico", ".icns", ".pcx", ".dds", ".exr", ".hdr")

# Editors write their history into a PNG as text; Pillow refuses 1 MB in one chunk, and 64 MB in all.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY


class BadImageError(ClipScratchError):
    """An image that cannot be read. The message names the file, the member and the reason."""


def is_image_name(name: str | PathLike) -> bool:
    """Return whether a name ends like that of an image file. Files that begin with a dot belong to the system."""
    base = os.path.basename(name)
    return base.rpartition(".")[2].lower() in IMAGE_EXTENSIONS and not base.startswith(".")


def warn_of_unread(paths: Iterable[str]) -> None:
    """Log how many of the files are images of a kind that is not read (raw photos, vectors, icons, ...), if any."""
    unread = [path for path in paths if path.lower().endswith(_UNREAD) and not os.path.basename(path).startswith(".")]
    if unread:
        message = "%d images are of a kind that is not read (%s, ...) and are left out; convert them to JPEG."
        logger.warning(message, len(unread), unread[0])


def decode_image(data: bytes | PathLike | str, *, name: str, draft_size: int | None = None) -> Image.Image:
    """Decode one image as people see it: rotated by its EXIF tag, transparency on white, first frame, 8-bit RGB.

    A JPEG is decoded at a half, a quarter or an eighth of its scale as long as both sides have at least `draft_size`
    pixels. An image that cannot be decoded, or of over twice `PIL.Image.MAX_IMAGE_PIXELS`, raises `BadImageError`.
    """
    try:
        data = data if isinstance(data, bytes) else Path(data).read_bytes()
        with Image.open(io.BytesIO(data)) as file:
            if draft_size is not None:
                file.draft("RGB", (draft_size, draft_size))
            file.load()
            with suppress(Exception):  # a broken EXIF block is common, and the pixels may be good all the same
                ImageOps.exif_transpose(file, in_place=True)
            image = _to_rgb(file)
    except FileNotFoundError as error:
        raise BadImageError(f"{name}: there is no such image; check the path, or remove its row.") from error
    except Exception as error:  # decoders raise anything on bad bytes: OSError, SyntaxError, struct.error, ...
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "not an image of any known format, or cut short in its header"
            if is_lfs_pointer(data):
                reason = "it is a Git LFS pointer, which git lfs pull replaces with the image"
        raise BadImageError(f"{name}: cannot be decoded ({reason}); replace the image or remove its row.") from error
    image.info.clear()  # a remaining EXIF block would make the next reader rotate the image again
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return a copy in RGB: transparency on white, 16 and 32 bits scaled to 8."""
    if image.mode.startswith("I"):
        # Mode I holds 16-bit grey from PNG and 32-bit grey from TIFF; Pillow's convert() would clip both at 255.
        pixels = np.asarray(image).astype(np.int64) & 0xFFFFFFFF
        full = 0xFFFF if pixels.max() <= 0xFFFF else 0xFFFFFFFF
        return Image.fromarray(((pixels * 255 + full // 2) // full).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("its pixels are floats, which have no fixed range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
