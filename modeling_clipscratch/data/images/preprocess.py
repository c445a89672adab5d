"""Pictures of any size go in; uint8 arrays of the tower's size, and normalised float batches, come out."""

import functools
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from ...hub.errors_clipscratch import ClipScratchError
from ..dataset import ImageReader, title, warn_left_out
from .decode import BadImageError, decode_image, decode_pixels
from .read_ahead import read_ahead

# Resized by torch's kernels for bytes, which antialias as Pillow does, in an eighth of the time (`benchmarks.input`).
_MODES = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}
# A JPEG may be decoded at a part of its scale that is at least this many times the size it is resized to.
_REDUCING_GAP = 3


class Preprocess:
    """A picture to the uint8 array that the tower sees, resized and cropped as its image processor does it.

    Args:
        image_processor: transformers image processor of the vision tower (PIL back-end).
        exact: the image processor's own pixels, for whatever is measured, cached or searched. Else pictures to train
            on: files are decoded by `decode_pixels`, large JPEGs at a part of their scale, and resized by torch, in
            about half of the time. Resizing so differs by 0.03 of 255 levels in the mean of photographs, 6 at
            most; a JPEG at half its scale by 1, at a quarter by 1.3, at sharp edges up to some 30. Image processors
            that do more than resize (bilinear, bicubic) and crop are left to their own way.

    Normalisation is left to `normalize`, so that batches travel as bytes and become floats on the device.

    Raises: ClipScratchError if the image processor scales pixels otherwise than to [0, 1], normalises without a mean or
        deviation, gives pictures of differing shapes, or does not make one image of three channels of each.

    >>> from transformers import ViTImageProcessorPil
    >>> preprocess = Preprocess(ViTImageProcessorPil(size={"height": 8, "width": 8}))
    >>> preprocess(Image.new("RGB", (640, 480), "gold")).shape
    (8, 8, 3)
    """

    def __init__(self, image_processor, *, exact: bool = True):
        self.image_processor = image_processor
        self.mean, self.std = _statistics(image_processor)
        self.image_size = self._try()
        # Where a crop follows, a picture of the crop's size may be enlarged first (DINOv2: to 256, then 224 of it).
        self._resized = _edges(image_processor.size)
        resizes = image_processor.do_resize and None not in self._resized
        self._mode = None if exact or not resizes else _MODES.get(image_processor.resample)
        self.exact = self._mode is None or not self._agrees()

    def decode(self, data, *, name: str) -> Image.Image | np.ndarray:
        """An encoded picture, or the path to it, to what this is called with. Raises: `BadImageError`."""
        if self.exact:
            return decode_image(data, name=name)
        return decode_pixels(data, name=name, draft_size=_REDUCING_GAP * max(self._resized))

    def read(self, images: ImageReader, index: int) -> np.ndarray:
        """The image of a row, decoded and resized. Raises: `BadImageError`."""
        return self(images(index, self.decode))

    def __call__(self, image) -> np.ndarray:
        """PIL picture or uint8 array (H, W, 3) -> uint8 array of `image_size` (H', W', 3)."""
        size = image.shape[:2] if isinstance(image, np.ndarray) else image.size[::-1]
        if size == self.image_size == self._resized:
            return np.asarray(image)  # resizing to the same size is the identity
        return self._own(image) if self.exact else self._fast(image)

    def _own(self, image):
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image)  # of an array the processor would guess which axis holds the channels
        pixels = self.image_processor(image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"]
        return np.ascontiguousarray(pixels[0].transpose(1, 2, 0), dtype=np.uint8)

    def _fast(self, image):
        pixels = torch.from_numpy(np.require(image, np.uint8, ["C", "W"]))
        (tall, wide), (height, width) = self._resized, self.image_size
        if self.image_processor.size.shortest_edge is not None:
            shorter = min(pixels.shape[:2])
            tall, wide = (tall * edge // shorter for edge in pixels.shape[:2])
        # The batch's axis comes first: added last, torch would take the bytes for planes and pack them anew.
        images = pixels[None].permute(0, 3, 1, 2)
        images = torch.nn.functional.interpolate(images, size=(tall, wide), mode=self._mode, antialias=True)
        top, left = (tall - height) // 2, (wide - width) // 2
        return np.ascontiguousarray(images[0].permute(1, 2, 0)[top : top + height, left : left + width].numpy())

    def _agrees(self):
        """Whether the image processor does no more than `_fast` does."""
        noise = np.random.default_rng(0).integers(0, 256, (2, 2 * self._resized[0], 3 * self._resized[1], 3), np.uint8)
        made = [(self._own(image), self._fast(image)) for image in (noise[0], noise[1].swapaxes(0, 1))]
        return all(own.shape == fast.shape and np.abs(own - fast.astype(float)).mean() < 0.5 for own, fast in made)

    def _try(self):
        """Height and width of what it makes of pictures: wide, tall, small and large."""
        own, draw = self.image_processor, np.random.default_rng(0)
        pictures = [draw.integers(0, 256, (*size, 3), np.uint8) for size in ((8, 16), (16, 8), (400, 300))]
        name = type(own).__name__
        try:
            made = [self._own(picture) for picture in pictures]
            whole = [own(Image.fromarray(picture), return_tensors="pt")["pixel_values"] for picture in pictures]
            shapes = [pixels.shape[:2] for pixels in made]
            single = all(pixels.shape[2:] == (3,) for pixels in made)
        except Exception as error:  # of many kinds: those of patches, tiles, pairs or videos fail each in its own way
            single, why = False, f" ({type(error).__name__}: {' '.join(str(error).split())})"
        else:
            why = ""
        if not single:
            raise ClipScratchError(
                f"the image processor {name} does not make one image of three channels of an image{why}; give a tower "
                "whose image processor does, such as that of a ViT, DINOv2 or CLIP."
            )
        other = next((shape for shape in shapes if shape != shapes[0]), None)
        if other is not None:
            raise ClipScratchError(
                f"this image processor (do_resize={getattr(own, 'do_resize', None)}, size={dict(own.size or {})}, "
                f"do_center_crop={getattr(own, 'do_center_crop', None)}) gives pictures of differing shapes, "
                f"{shapes[0]} and {other} for one, and a batch needs one shape; give size a height and a width, or "
                "crop_size with do_center_crop."
            )
        expected = [normalize(torch.from_numpy(pixels)[None], self.mean, self.std) for pixels in made]
        deviation = torch.tensor(self.std)[:, None, None]
        apart = [((one - other).abs() * deviation).mean() for one, other in zip(whole, expected, strict=True)]
        if not max(apart) < 0.5 / 255:
            raise ClipScratchError(
                f"the image processor {name} does more to pixels than resize, crop, scale and normalise them; give a "
                "tower whose image processor does no more, such as that of a ViT, DINOv2 or CLIP."
            )
        return shapes[0]

    def read_all(self, dataset, *, on_bad_row: str = "raise", progress: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Decode every image once.

        Args:
            dataset: prepared, N rows.
            on_bad_row: `raise`, or `skip` to leave the row out.
            progress: show a bar.

        Returns: (pixels, kept): uint8 (n, H', W', 3) and the int64 indices of the rows that could be read.

        Raises:
            BadImageError: at the first image that cannot be decoded, unless it is to be skipped.
            ClipScratchError: if no image can be decoded.
        """
        pixels = np.empty((len(dataset), *self.image_size, 3), dtype=np.uint8)
        kept = []
        for index, image in self.read_each(dataset, on_bad_row=on_bad_row, progress=progress):
            pixels[len(kept)] = image
            kept.append(index)
        return pixels[: len(kept)], np.array(kept, dtype=np.int64)

    def readable(self, dataset, *, progress: bool = False) -> np.ndarray:
        """The int64 indices of the rows whose images can be read; none is kept. Raises: as `read_all`."""
        pairs = self.read_each(dataset, on_bad_row="skip", progress=progress)
        return np.array([index for index, _ in pairs], dtype=np.int64)

    def read_each(
        self, dataset, *, on_bad_row: str = "raise", progress: bool = False, batch_size: int = 256
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Pairs of an index and its image, in order; up to `batch_size` are read ahead. Args, Raises: as `read_all`."""
        images, errors = ImageReader(dataset), []

        def read(index):
            try:
                return index, self.read(images, index)
            except BadImageError as error:
                if on_bad_row == "raise":
                    raise
                return index, str(error)

        with tqdm(total=len(dataset), unit="image", desc=f"reading {dataset.split}", disable=not progress) as bar:
            for batch in read_ahead(read, range(len(dataset)), batch_size):
                errors += [image for _, image in batch if isinstance(image, str)]
                yield from (pair for pair in batch if not isinstance(pair[1], str))
                bar.update(len(batch))
        if len(errors) == len(dataset):
            raise ClipScratchError(f"{title(dataset)}: none of {len(dataset)} images can be read; {errors[0]}")
        warn_left_out(dataset, errors, "images")


def normalize(images: torch.Tensor, mean, std) -> torch.Tensor:
    """uint8 or float (B, H, W, 3) in 0 to 255 -> float32 (B, 3, H, W), zero mean and unit deviation a channel.

    >>> normalize(torch.full((1, 1, 1, 3), 255, dtype=torch.uint8), [0.5] * 3, [0.5] * 3).flatten().tolist()
    [1.0, 1.0, 1.0]
    """
    mean, std = (_of_channels(tuple(values), images.device) for values in (mean, std))
    # Planes first, then floats: bytes less floats, channel by channel, take ten times as long.
    return images.permute(0, 3, 1, 2).contiguous().float().sub(mean).div_(std)


@functools.cache  # once: a list that becomes a tensor of a GPU makes the host wait for all that the GPU has to do
def _of_channels(values, device):
    with torch.inference_mode(False):  # kept for those who want gradients, too
        return torch.tensor(values, device=device)[:, None, None] * 255


def _statistics(image_processor):
    """Mean and deviation of pixels in [0, 1]."""
    scale = image_processor.rescale_factor if getattr(image_processor, "do_rescale", None) else 1
    if abs(255 * scale - 1) > 1e-6:
        raise ClipScratchError(
            f"this image processor multiplies bytes by {scale}, and only 1/255 is known here; set do_rescale to true "
            "and rescale_factor to 1/255 if the model was trained so."
        )
    if not image_processor.do_normalize:
        return [0.0] * 3, [1.0] * 3
    for name in ("image_mean", "image_std"):
        values = getattr(image_processor, name)
        if not isinstance(values, (list, tuple)) or len(values) != 3:
            raise ClipScratchError(
                f"this image processor normalises with {name}={'null' if values is None else values}; give three "
                "numbers, or set do_normalize to false."
            )
    return list(image_processor.image_mean), list(image_processor.image_std)


def _edges(size):
    if not hasattr(size, "shortest_edge"):
        return None, None
    return (size.height, size.width) if size.shortest_edge is None else (size.shortest_edge, size.shortest_edge)
