"""Decode images of every mode and form to pixels that are known by hand, and name those that cannot be decoded."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from modeling_clipscratch.data.images.decode import BadImageError, decode_image

ORIENTATION = 0x0112
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def file_of(image: Image.Image, format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format=format, **options)
    return file.getvalue()


def grey(*levels, dtype=np.uint8):
    return Image.fromarray(np.array([levels]).astype(dtype))


def palette() -> Image.Image:
    image = grey(0, 1).convert("P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    return image


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (file_of(Image.new("RGB", (2, 1), (1, 2, 3))), [(1, 2, 3)] * 2),
        (file_of(grey(77, 9)), [(77,) * 3, (9,) * 3]),
        (file_of(grey(0, 255).convert("1")), [(0,) * 3, (255,) * 3]),
        (file_of(palette()), [(10, 20, 30), (200, 100, 50)]),
        (file_of(palette(), transparency=0), [(255,) * 3, (200, 100, 50)]),
        (file_of(grey(9, 8).convert("RGB"), transparency=(9, 9, 9)), [(255,) * 3, (8,) * 3]),
        # Alpha is laid on white: 51 is a fifth of 255, and a fifth of black on white is 204.
        *((file_of(Image.new(mode, (1, 1), (*black, alpha))), [(level,) * 3])
          for alpha, level in ((0, 255), (255, 0), (51, 204)) for mode, black in (("RGBA", (0, 0, 0)), ("LA", (0,)))),
        # 16 bits are scaled, not clipped: 65535 / 257 = 255, 32896 / 257 = 128, 257 / 257 = 1, 100 / 257 rounds to 0.
        *((file_of(grey(65535, 32896, 257, 100, dtype=np.uint16), format), [(255,) * 3, (128,) * 3, (1,) * 3, (0,) * 3])
          for format in ("PNG", "TIFF")),
        # Mode I is 16-bit unless its values are larger.
        (file_of(grey(65535, 32896, 0, dtype=np.int32), "TIFF"), [(255,) * 3, (128,) * 3, (0,) * 3]),
        (file_of(grey(0x80808080, 0xFFFFFFFF, dtype=np.int32), "TIFF"), [(128,) * 3, (255,) * 3]),
        # Cyan is the lack of red; (0, 255, 255, 0) is magenta with yellow: red.
        (file_of(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "TIFF"), [(255, 0, 0)]),
        (file_of(grey(0), "GIF", save_all=True, append_images=[grey(255)]), [(0, 0, 0)]),  # the first frame
    ],
)  # fmt: skip
def test_every_mode_becomes_rgb_of_eight_bits_silently(data, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = decode_image(data, name="image")
    assert type(image) is Image.Image  # without its file
    assert image.mode == "RGB" and [image.getpixel((x, 0)) for x in range(image.width)] == expected


def test_cmyk_jpeg_becomes_rgb():
    jpeg = file_of(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    assert np.abs(np.array(decode_image(jpeg, name="image")) - (255, 0, 0)).max() <= 3  # JPEG is lossy


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(orientation, format):
    # An F, black on white: no turn or mirror of it looks like another.
    upright = np.full((56, 40), 255, dtype=np.uint8)
    upright[8:48, 8:16] = upright[8:16, 8:32] = upright[24:32, 8:24] = 0
    # How the camera stored it: EXIF's table of rows and columns in NumPy's words.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright.T[::-1],
        7: upright.T[::-1, ::-1],
        8: upright.T[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = file_of(Image.fromarray(np.ascontiguousarray(stored)).convert("RGB"), format, exif=exif)
    image = decode_image(data, name="image")
    assert image.size == (40, 56)
    assert np.abs(np.asarray(image)[:, :, 0].astype(int) - upright).max() < 64  # JPEG and WebP are lossy
    assert ORIENTATION not in image.getexif()  # or the next reader would turn it again


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_spoil_good_pixels():
    data = file_of(Image.new("RGB", (8, 8), "white"), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode_image(data, name="image").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_image_is_named(format, share):
    data = file_of(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)), format)
    with pytest.raises(BadImageError, match="shard 3: cat.jpg: cannot be decoded"):
        decode_image(data[: int(len(data) * share)], name="shard 3: cat.jpg")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "x.jpg: cannot be decoded .*; replace the image or remove its row."),
        (b"hello, this is no image", "x.jpg: cannot be decoded .not an image of any known format"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "x.jpg: cannot be decoded"),
        (file_of(Image.new("F", (2, 2), 0.5), "TIFF"), "x.jpg: cannot be decoded .*floats"),
        (POINTER, "x.jpg: cannot be decoded .it is a Git LFS pointer, which git lfs pull"),
        (file_of(Image.new("1", (200, 200))), "x.jpg: cannot be decoded .*decompression bomb"),
        (None, "x.jpg: there is no such image"),
    ],
    ids=["empty", "text", "zeros", "floats", "a pointer", "a bomb", "missing"],
)
@pytest.mark.parametrize("as_file", [False, True])
def test_bytes_that_are_no_image_are_named(tmp_path, monkeypatch, data, message, as_file):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    if data is not None:
        (tmp_path / "x.jpg").write_bytes(data)
    with pytest.raises(BadImageError, match=message):
        decode_image(tmp_path / "x.jpg" if as_file or data is None else data, name="x.jpg")


@pytest.mark.parametrize("compressed", [False, True])
def test_png_with_three_megabytes_of_text_is_decoded(compressed):
    text = PngImagePlugin.PngInfo()
    text.add_text("history", "a" * 3_000_000, zip=compressed)
    data = file_of(Image.new("RGB", (2, 2), "red"), pnginfo=text)
    assert decode_image(data, name="image").getpixel((0, 0)) == (255, 0, 0)


def test_draft_keeps_both_sides_at_least_as_long_as_its_size():
    data = file_of(Image.new("RGB", (800, 400)), "JPEG")
    for draft_size, size in ((100, (200, 100)), (101, (400, 200)), (None, (800, 400))):
        assert decode_image(data, name="image", draft_size=draft_size).size == size
