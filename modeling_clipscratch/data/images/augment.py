"""Augment batches of uint8 images on their device, with all random numbers drawn from the samples' ids."""

from dataclasses import dataclass

import torch
from torch import nn

from ...utils.errors import ClipScratchError
from .preprocess import normalize
from .randomness import uniform

# One draw number a decision, so that one augmentation more does not change the draws of the others.
_FLIP, _SHIFT_Y, _SHIFT_X, _SCALE, _RATIO, _CROP_Y, _CROP_X, _ERASE, _ERASE_Y, _ERASE_X, _ERASE_AREA, _ERASE_RATIO = (
    range(12)
)


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Augment and normalise images; `mean` and `std` (3,) are those of the image processor, in 0 to 1.

    A shift of at most `random_shift` pixels repeats the edge. A crop keeps at least `random_crop_min_area` of the image
    at an aspect ratio of 3/4 to 4/3 (what would lie outside is cut), and is resized back (bilinear; Szegedy et al.
    2014, arXiv 1409.4842). An erased rectangle of 2 to 25 % becomes the mean colour (Zhong et al. 2017, 1708.04896).
    """

    mean: list
    std: list
    random_shift: int = 0
    random_crop_min_area: float = 1.0
    horizontal_flip: float = 0.0
    random_erasing: float = 0.0

    def __post_init__(self):
        for name in ("horizontal_flip", "random_erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ClipScratchError(f"{name}={getattr(self, name)} is not a probability; choose 0 to 1.")
        if not 0 < self.random_crop_min_area <= 1:
            raise ClipScratchError(f"random_crop_min_area={self.random_crop_min_area} is not in (0, 1]; choose 0.6.")

    def __call__(self, images: torch.Tensor, samples: torch.Tensor, may_flip: torch.Tensor) -> torch.Tensor:
        """Augment uint8 (B, H, W, 3) to float32 (B, 3, H, W).

        `samples` are (B,) `sample_ids`; `may_flip` is False where the caption names left or right.
        """
        flip = (uniform(samples, _FLIP) < self.horizontal_flip) & may_flip
        if self.random_shift or self.horizontal_flip:
            images = self._shift_and_flip(images, samples, flip)
        pixels = normalize(images, self.mean, self.std)
        if self.random_crop_min_area < 1:
            pixels = self._crop(pixels, samples)
        return self._erase(pixels, samples) if self.random_erasing else pixels

    def _shift_and_flip(self, images, samples, flip):
        height, width = images.shape[1:3]
        span = 2 * self.random_shift + 1
        down = (uniform(samples, _SHIFT_Y) * span).long() - self.random_shift
        right = (uniform(samples, _SHIFT_X) * span).long() - self.random_shift
        # Repeated, not mirrored: a mirrored edge adds strokes to an 8x8 digit.
        y = (torch.arange(height, device=images.device) + down[:, None]).clamp(0, height - 1)
        x = (torch.arange(width, device=images.device) + right[:, None]).clamp(0, width - 1)
        x = torch.where(flip[:, None], width - 1 - x, x)
        row = torch.arange(len(images), device=images.device)[:, None, None]
        # Selecting whole pixels takes a fifth of the time of indexing by row, y and x, which copies bytes.
        pixels = ((row * height + y[:, :, None]) * width + x[:, None, :]).flatten()
        return images.reshape(-1, images.shape[3]).index_select(0, pixels).view(images.shape)

    def _crop(self, pixels, samples):
        area = self.random_crop_min_area + (1 - self.random_crop_min_area) * uniform(samples, _SCALE)
        ratio = (4 / 3) ** (2 * uniform(samples, _RATIO) - 1)
        height = (area / ratio).sqrt().clamp(max=1)
        width = (area * ratio).sqrt().clamp(max=1)
        # Centre of the crop in the coordinates of grid_sample, -1 to 1.
        y = (1 - height) * (2 * uniform(samples, _CROP_Y) - 1)
        x = (1 - width) * (2 * uniform(samples, _CROP_X) - 1)
        zero = torch.zeros_like(x)
        theta = torch.stack([torch.stack([width, zero, x], -1), torch.stack([zero, height, y], -1)], 1)
        with torch.autocast(pixels.device.type, enabled=False):  # which would round the grid
            grid = nn.functional.affine_grid(theta, list(pixels.shape), align_corners=False)
            return nn.functional.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)

    def _erase(self, pixels, samples):
        height, width = pixels.shape[2:]
        erased = uniform(samples, _ERASE) < self.random_erasing
        area = 0.02 + 0.23 * uniform(samples, _ERASE_AREA)
        ratio = 3 ** (2 * uniform(samples, _ERASE_RATIO) - 1)
        tall, wide = (area * ratio).sqrt().clamp(max=1) * height, (area / ratio).sqrt().clamp(max=1) * width
        top = uniform(samples, _ERASE_Y) * (height - tall)
        left = uniform(samples, _ERASE_X) * (width - wide)
        y, x = torch.arange(height, device=pixels.device) + 0.5, torch.arange(width, device=pixels.device) + 0.5
        inside_y = (y >= top[:, None]) & (y < (top + tall)[:, None])
        inside_x = (x >= left[:, None]) & (x < (left + wide)[:, None])
        hole = inside_y[:, :, None] & inside_x[:, None, :] & erased[:, None, None]
        return pixels.masked_fill(hole[:, None], 0.0)  # 0 is the mean colour once normalised


@dataclass(frozen=True, kw_only=True)
class Views:
    """Augment the parts of a batch, (B, ...) as of `Augment`, when they are indexed. Equal parts are equal tensors."""

    images: torch.Tensor
    samples: torch.Tensor
    may_flip: torch.Tensor
    augment: Augment

    def __len__(self):
        return len(self.images)

    def __getitem__(self, part: slice) -> torch.Tensor:
        return self.augment(self.images[part], self.samples[part], self.may_flip[part])
