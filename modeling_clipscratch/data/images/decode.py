"""Picture files of any mode go in, as bytes or a path; upright 8-bit RGB comes out, or a `BadImageError`."""

import contextlib
import io
import logging
import os
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin

from ...hub.errors_clipscratch import ClipScratchError
from ...utils.local_files import backslash_hint, is_special, lfs_pointer

try:
    import simplejpeg
except ImportError:  # the extra `jpeg` is not installed
    simplejpeg = None

logger = logging.getLogger(__name__)

IMAGE_EXTENSIONS = frozenset(
    ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pbm", "avif")
)

# Editors write their history into a PNG as text; Pillow refuses 1 MB in one chunk, and 64 MB in all.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY

_UNREAD = (".heic", ".heif", ".jxl", ".jp2", ".j2k", ".dng", ".cr2", ".nef", ".arw", ".raw", ".psd", ".svg", ".eps")
_UNREAD += (".tga", ".ico", ".icns", ".pcx", ".dds", ".exr", ".hdr")

COMMON_FORMATS = ("JPEG", "PNG", "WEBP", "PPM")


class BadImageError(ClipScratchError):
    """An image that cannot be decoded; the message names the file, the member and the reason.

    >>> try:
    ...     raise BadImageError("photos/7.png cannot be read: it is cut short.")
    ... except ValueError as error:
    ...     print(error)
    photos/7.png cannot be read: it is cut short.
    """


# EXIF 2.32, tag 0x0112: what undoes each way of holding the camera.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def is_picture_name(name: str | PathLike) -> bool:
    """Whether the ending is that of a picture file; files that begin with a dot are the system's, not pictures.

    >>> is_picture_name("cat.JPG"), is_picture_name("notes.txt"), is_picture_name("._cat.jpg")
    (True, False, False)
    """
    base = os.path.basename(name)
    return base.rpartition(".")[2].lower() in IMAGE_EXTENSIONS and not base.startswith(".")


def is_unread_name(name: str) -> bool:
    """Whether it is an image of a kind that is not read: of a phone or a camera, of vectors, an icon, ...

    >>> is_unread_name("IMG_1.HEIC"), is_unread_name("IMG_1.JPG")
    (True, False)
    """
    return name.lower().endswith(_UNREAD) and not name.startswith(".")


def warn_of_unread(paths: Sequence[str]) -> None:
    """Says how many pictures of such a kind are left out, if any."""
    if paths:
        logger.warning(
            "%d pictures are of a kind that is not read (%s, ...) and are left out; convert them to JPEG.",
            len(paths),
            paths[0],
        )


def decode_image(data: bytes | PathLike | str, *, name: str, draft_size: int | None = None) -> Image.Image:
    """One picture as people see it: rotated as its EXIF says, transparency on white, first frame, 8-bit RGB.

    Args:
        data: the encoded file, or the path to it.
        name: what an error calls the picture: its path, or its shard and member.
        draft_size: pixels; a JPEG may be decoded at a half, a quarter or an eighth of its scale as long as neither
            side falls below this, which is several times faster for large photographs.

    Raises:
        BadImageError: if the picture is missing, no regular file, cut short, corrupt, of no known format, or so large
            that decoding it would exhaust memory (Pillow's limit, `PIL.Image.MAX_IMAGE_PIXELS`, twice over).

    >>> decode_image("photos/0.png", name="photos/0.png").size
    (8, 8)
    """
    with _bad_one_named(name, data), _open(data) as file:
        _draft(file, draft_size)
        image, orientation = _loaded(file)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    elif image is file:
        image = image.copy()  # a picture of a file keeps its EXIF block, whatever is done to `info`
    image.info.clear()  # an EXIF block that stayed would have the next reader rotate it again
    return image


def decode_pixels(data: bytes | PathLike | str, *, name: str, draft_size: int | None = None) -> np.ndarray:
    """The pixels of `decode_image` to the bit, with less copying: uint8 (H, W, 3), writable.

    Where `simplejpeg` is installed (extra `jpeg`) it decodes what Pillow takes for an RGB JPEG, at its full scale; what
    it refuses is left to Pillow, whose verdict counts.

    Args, Raises: as for `decode_image`.

    >>> decode_pixels("photos/0.png", name="photos/0.png").shape
    (8, 8, 3)
    """
    with _bad_one_named(name, data):
        if not isinstance(data, bytes):
            _check_regular(data)
            data = Path(data).read_bytes()
        with _open(data) as file:
            full = file.size
            _draft(file, draft_size)
            pixels = _fast_jpeg(data, file) if file.size == full else None
            image, orientation = _loaded(file) if pixels is None else (None, _orientation(file))
    if orientation in _UPRIGHT:
        image = (Image.fromarray(pixels) if image is None else image).transpose(_UPRIGHT[orientation])
    return pixels if image is None else np.array(image)


def _fast_jpeg(data: bytes, file: Image.Image) -> np.ndarray | None:
    if simplejpeg is None or file.format != "JPEG" or file.mode != "RGB":
        return None
    try:
        return simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:
        return None


@contextlib.contextmanager
def _bad_one_named(name, data):
    try:
        yield
    except BadImageError:
        raise
    except FileNotFoundError as error:
        hint = backslash_hint(name)
        raise BadImageError(f"{name}: there is no such picture; check the path{hint}, or remove its row.") from error
    except Exception as error:  # decoders raise anything on bad bytes: OSError, SyntaxError, struct.error, ...
        reason = _reason(error, data)
        raise BadImageError(f"{name}: cannot be decoded ({reason}); replace the picture or remove its row.") from error


def _draft(file, size):
    if size is not None:
        file.draft("RGB", (size, size))


def _loaded(file) -> tuple[Image.Image, int]:
    file.load()
    orientation = _orientation(file)
    return _to_rgb(file), orientation


def _open(data) -> Image.Image:
    if isinstance(data, bytes):
        file = io.BytesIO(data)
    else:
        _check_regular(file := data)
    # Pillow tries its formats in turn, and comes to WebP late: 60 of the 150 microseconds of a small picture.
    try:
        return Image.open(file, formats=COMMON_FORMATS)
    except Image.UnidentifiedImageError:
        return Image.open(file)


def _check_regular(path):
    if is_special(path):  # opening a pipe waits for whoever writes into it
        raise ClipScratchError("it is a pipe, socket or device, and no regular file")


def _reason(error: Exception, data) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        if lfs_pointer(data if isinstance(data, bytes) else Path(data).read_bytes()):
            return "it is a Git LFS pointer, which git lfs pull replaces with the image"
        return "not a picture of any known format, or cut short in its header"
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _orientation(image: Image.Image) -> int:
    # Asked after load(): Pillow turns a TIFF upright while loading, and then drops the tag.
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a broken EXIF block is common and says nothing against the pixels
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I"):
        return _from_integers(np.asarray(image)).convert("RGB")
    if image.mode == "F":
        raise ClipScratchError("its pixels are floats, which have no fixed range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _from_integers(pixels: np.ndarray) -> Image.Image:
    # Mode I holds 16-bit grey from PNG and 32-bit grey from TIFF; Pillow's own convert() would clip both at 255.
    pixels = pixels.astype(np.int64) & 0xFFFFFFFF
    full = 0xFFFF if pixels.max() <= 0xFFFF else 0xFFFFFFFF
    return Image.fromarray(((pixels * 255 + full // 2) // full).astype(np.uint8))
