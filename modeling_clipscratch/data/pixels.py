"""Pictures of any size go in; uint8 arrays of the tower's size, and normalised float batches, come out."""

import functools
import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from .rows import BadImageError, Rows

logger = logging.getLogger(__name__)


class Preprocess:
    """A picture to the uint8 array that the tower sees, resized and cropped as its image processor does it.

    Args:
        image_processor: transformers image processor of the vision tower (PIL back-end).

    Normalisation is left to `normalize`, so that batches travel as bytes and become floats on the device.

    >>> from transformers import ViTImageProcessorPil
    >>> preprocess = Preprocess(ViTImageProcessorPil(size={"height": 8, "width": 8}))
    >>> preprocess(Image.new("RGB", (640, 480), "gold")).shape
    (8, 8, 3)
    """

    def __init__(self, image_processor):
        self.image_processor = image_processor
        self.mean = list(image_processor.image_mean)
        self.std = list(image_processor.image_std)
        size = image_processor.crop_size if _crops(image_processor) else image_processor.size
        self.image_size = _edges(size)
        # Where a crop follows, a picture of the crop's size may be enlarged first (DINOv2: to 256, then 224 of it).
        self._keeps_size = _edges(image_processor.size) == self.image_size

    def __call__(self, image) -> np.ndarray:
        """PIL picture or uint8 array (H, W, 3) -> uint8 array of `image_size` (H', W', 3)."""
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image)  # of an array the processor would guess which axis holds the channels
        if image.size[::-1] == self.image_size and self._keeps_size:
            return np.asarray(image)  # resizing to the same size is the identity
        pixels = self.image_processor(image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"]
        return np.ascontiguousarray(pixels[0].transpose(1, 2, 0), dtype=np.uint8)

    def read_all(self, rows: Rows, *, on_bad_image: str = "raise", progress: bool = False):
        """Decodes every picture once.

        Args:
            rows: N rows.
            on_bad_image: `raise`, or `skip` to leave the row out.
            progress: show a bar.
        Returns: (pixels, kept): uint8 (n, H', W', 3) and the int64 indices of the rows that could be read.
        Raises: BadImageError at the first picture that cannot be decoded, unless it is to be skipped; ValueError if
            none can.
        """

        def read(index):
            try:
                return self(rows.read_image(index))
            except BadImageError as error:
                if on_bad_image == "raise":
                    raise
                logger.warning("skipped: %s", error)
                return None

        pixels = np.empty((len(rows), *self.image_size, 3), dtype=np.uint8)
        kept = []
        with ThreadPoolExecutor() as pool:  # decoding releases the interpreter's lock
            blocks = range(0, len(rows), 256)
            with tqdm(total=len(rows), unit="picture", desc=f"reading {rows.split}", disable=not progress) as bar:
                for block in blocks:
                    indices = range(block, min(block + 256, len(rows)))
                    for index, picture in zip(indices, pool.map(read, indices), strict=True):
                        if picture is not None:
                            pixels[len(kept)] = picture
                            kept.append(index)
                    bar.update(len(indices))
        if not kept:
            raise ValueError(f"{rows.name}, split {rows.split}: none of {len(rows)} pictures can be read.")
        return pixels[: len(kept)], np.array(kept, dtype=np.int64)


def normalize(images: torch.Tensor, mean, std) -> torch.Tensor:
    """uint8 or float (B, H, W, 3) in 0 to 255 -> float32 (B, 3, H, W), zero mean and unit deviation a channel.

    >>> normalize(torch.full((1, 1, 1, 3), 255, dtype=torch.uint8), [0.5] * 3, [0.5] * 3).flatten().tolist()
    [1.0, 1.0, 1.0]
    """
    mean, std = (_of_channels(tuple(values), images.device) for values in (mean, std))
    return ((images - mean) / std).permute(0, 3, 1, 2).contiguous()


@functools.cache  # once: a list that becomes a tensor of a GPU makes the host wait for all that the GPU has to do
def _of_channels(values, device):
    with torch.inference_mode(False):  # kept for those who want gradients, too
        return torch.tensor(values, device=device) * 255


def _edges(size):
    return (size.height, size.width) if size.shortest_edge is None else (size.shortest_edge, size.shortest_edge)


def _crops(image_processor):
    return bool(image_processor.do_center_crop)
