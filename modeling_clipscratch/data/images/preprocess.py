"""Read, resize and crop images to the uint8 arrays that a vision tower sees, and normalise batches of them."""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from ...utils.errors import ClipScratchError
from ..dataset import ImageReader, title, warn_left_out
from .decode import BadImageError, decode_image

# Resized by torch's kernels for bytes, which antialias as Pillow does, in an eighth of the time (`benchmarks.input`).
_MODES = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}
# A JPEG is decoded at a part of its scale that is at least this many times the size it is resized to.
_REDUCING_GAP = 3

# Several threads are slower than one for reads quicker than this: each waits longer for the interpreter's lock than it
# works without it (`benchmarks.input`).
WORTH_A_THREAD = 1.5e-3  # seconds
PROBE = 4  # items of a batch that one thread reads, to measure how long one takes


class Preprocess:
    """Resize and crop images as an image processor (PIL back-end) does. Normalising is left to `normalize`.

    `image_size` is height and width of the arrays; `mean` and `std` (3,) are of pixels in [0, 1].

    Args:
        exact: Take the image processor's own pixels, for all that is measured, cached or searched. Otherwise, for
            training, large JPEGs are decoded at a part of their scale, and images are resized by torch, in about half
            of the time. Resizing differs by 0.03 of 255 levels in the mean of photographs, by 6 at most; a JPEG at half
            its scale by 1, at a quarter by 1.3. Image processors that do more are always used exactly.
    """

    def __init__(self, image_processor, *, exact: bool = True):
        self.image_processor = image_processor
        self._check()
        # Where a crop follows, an image of the crop's size may be enlarged first (DINOv2: to 256, then cropped to 224).
        size, self._resized = image_processor.size, (None, None)
        if hasattr(size, "shortest_edge"):
            edge = size.shortest_edge
            self._resized = (size.height, size.width) if edge is None else (edge, edge)
        resizes = image_processor.do_resize and None not in self._resized
        self._mode = None if exact or not resizes else _MODES.get(image_processor.resample)
        self.exact = self._mode is None or not self._only_resizes()

    def _check(self):
        """Set size, mean and deviation. Raise if images differ in shape, or if the processor changes them otherwise."""
        processor, generator = self.image_processor, np.random.default_rng(0)
        sizes = (8, 16), (16, 8), (400, 300)
        images = [Image.fromarray(generator.integers(0, 256, (*size, 3), np.uint8)) for size in sizes]
        try:
            plain = not processor.do_normalize
            self.mean = [0.0] * 3 if plain else list(processor.image_mean)
            self.std = [1.0] * 3 if plain else list(processor.image_std)
            pixels = [self._exactly(image) for image in images]
            self.image_size = pixels[0].shape[:2]
            own = normalize(torch.from_numpy(np.stack(pixels)), self.mean, self.std)
            processed = torch.cat([processor(image, return_tensors="pt")["pixel_values"] for image in images])
            difference = ((processed - own).abs() * torch.tensor(self.std)[:, None, None]).mean((1, 2, 3)).max()
            same, reason = own.shape == processed.shape and difference < 0.5 / 255, "it changes pixels in another way"
        except Exception as error:  # processors of patches, tiles, pairs or videos each fail in their own way
            same, reason = False, f"{type(error).__name__}: {' '.join(str(error).split())}"
        if not same:
            raise ClipScratchError(
                f"the image processor {type(processor).__name__} does more to images of three channels than resize and "
                f"crop them to one shape, multiply them by 1/255 and normalise them ({reason}); give its size a height "
                "and a width, or crop_size with do_center_crop, or give a tower such as a ViT, DINOv2 or CLIP."
            )

    def decode(self, data, *, name: str) -> Image.Image:
        """Decode an encoded image, or the file of a path, for `__call__`."""
        return decode_image(data, name=name, draft_size=None if self.exact else _REDUCING_GAP * max(self._resized))

    def read(self, images: ImageReader, index: int) -> np.ndarray:
        """Decode and resize the image of a row."""
        return self(images(index, self.decode))

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Resize an image to uint8 (H, W, 3) of `image_size`."""
        if image.size[::-1] == self.image_size == self._resized:
            return np.asarray(image)  # resizing to the same size is the identity
        return self._exactly(image) if self.exact else self._fast(image)

    def _exactly(self, image):
        pixels = self.image_processor(image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"]
        return np.ascontiguousarray(pixels[0].transpose(1, 2, 0), dtype=np.uint8)

    def _fast(self, image):
        pixels = torch.from_numpy(np.array(image))
        (tall, wide), (height, width) = self._resized, self.image_size
        if self.image_processor.size.shortest_edge is not None:
            shorter = min(pixels.shape[:2])
            tall, wide = (tall * edge // shorter for edge in pixels.shape[:2])
        # The batch axis comes first; added last, it makes torch take the bytes for planes and copy them.
        images = pixels[None].permute(0, 3, 1, 2)
        images = torch.nn.functional.interpolate(images, size=(tall, wide), mode=self._mode, antialias=True)
        top, left = (tall - height) // 2, (wide - width) // 2
        return np.ascontiguousarray(images[0].permute(1, 2, 0)[top : top + height, left : left + width].numpy())

    def _only_resizes(self):
        """Return whether the image processor does no more than `_fast`."""
        noise = np.random.default_rng(0).integers(0, 256, (2 * self._resized[0], 3 * self._resized[1], 3), np.uint8)
        images = map(Image.fromarray, (noise, np.ascontiguousarray(noise.swapaxes(0, 1))))
        pairs = [(self._exactly(image), self._fast(image)) for image in images]
        return all(one.shape == two.shape and np.abs(one - two.astype(float)).mean() < 0.5 for one, two in pairs)

    def read_all(self, dataset, *, on_bad_row: str = "raise", progress: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return uint8 (n, H', W', 3) pixels, and the (n,) int64 indices of their rows; see `read_each`."""
        pixels = np.empty((len(dataset), *self.image_size, 3), dtype=np.uint8)
        kept = []
        for index, image in self.read_each(dataset, on_bad_row=on_bad_row, progress=progress):
            pixels[len(kept)] = image
            kept.append(index)
        return pixels[: len(kept)], np.array(kept, dtype=np.int64)

    def read_each(
        self, dataset, *, on_bad_row: str = "raise", progress: bool = False, batch_size: int = 256
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield index and image of each row in order, `batch_size` read ahead; with `skip`, without broken images."""
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
    """Normalise uint8 or float (B, H, W, 3) in 0 to 255 to float32 (B, 3, H, W), zero mean and unit deviation."""
    mean, std = (_of_channels(tuple(values), images.device) for values in (mean, std))
    # Planes first, then floats: subtracting floats from bytes channel by channel takes ten times as long.
    return images.permute(0, 3, 1, 2).contiguous().float().sub(mean).div_(std)


@functools.cache  # making a tensor on a GPU of a list makes the host wait for all that the GPU has to do
def _of_channels(values, device):
    with torch.inference_mode(False):  # it is also used with gradients
        return torch.tensor(values, device=device)[:, None, None] * 255


def read_ahead(read: Callable[[Any], Any], items: Sequence, batch_size: int) -> Iterator[list]:
    """Yield lists of `read(item)` in the order of the items, the next one read while the caller uses the current one.

    `read` is called by other threads, several where items take long (large images, a slow disk). Its errors are raised
    in the turn of their batch.
    """

    def read_batch(batch):
        began = time.perf_counter()
        probe = [read(item) for item in batch[:PROBE]]
        quick = time.perf_counter() - began < WORTH_A_THREAD * len(probe)
        return probe + list((map if quick else readers.map)(read, batch[PROBE:]))

    with ThreadPoolExecutor() as readers, ThreadPoolExecutor(max_workers=1) as ahead:
        starts = range(0, len(items), batch_size)
        coming = (ahead.submit(read_batch, items[start : start + batch_size]) for start in starts)
        for batch, _ in pairwise(chain(coming, [None])):  # submit the next batch before waiting for this one
            yield batch.result()
