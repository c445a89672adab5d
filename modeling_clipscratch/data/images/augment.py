"""uint8 pictures and their sample ids go in; augmented, normalised float batches come out, on the pictures' device."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import nn

from ...hub.errors_clipscratch import ClipScratchError
from .mix import Mix, Mixture
from .preprocess import normalize
from .randomness import uniform
from .trivial_augment import trivial_augment

# One draw number a decision, so that switching one augmentation on leaves the others' draws as they are.
_FLIP, _SHIFT_Y, _SHIFT_X, _SCALE, _RATIO, _CROP_Y, _CROP_X, _ERASE, _ERASE_Y, _ERASE_X, _ERASE_AREA, _ERASE_RATIO = (
    range(12)
)


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random views of a batch; every number is drawn from the sample's id.

    Args:
        mean, std: (3,) of the image processor, in 0 to 1.
        random_shift: the picture moves by up to this many pixels each way, its edge repeated.
        random_crop_min_area: least share of the picture that is drawn for a crop; 1 is no crop. Its aspect ratio is
            drawn from 3/4 to 4/3, what would lie outside is cut, and the crop resized back (bilinear).
        horizontal_flip: probability of a mirror image, where the caption allows it.
        trivial_augment: probability of one random operation of `trivial_augment`, before a crop.
        random_erasing: probability that a rectangle of 2 to 25 % of the picture becomes the mean colour.
        mix: how pictures of a batch are mixed, by `Views`; `None` for not at all.
    Raises: ClipScratchError for what is no probability.
    Source: crop Szegedy et al. 2014, arXiv 1409.4842; erasing Zhong et al. 2017, arXiv 1708.04896.

    >>> augment = Augment(mean=[0.5] * 3, std=[0.5] * 3, random_shift=1)
    >>> images = torch.full((2, 8, 8, 3), 255, dtype=torch.uint8)
    >>> pixel_values = augment(images, samples=torch.tensor([3, 4]), may_flip=torch.tensor([True, True]))
    >>> pixel_values.shape, pixel_values.max()
    (torch.Size([2, 3, 8, 8]), tensor(1.))
    """

    mean: list
    std: list
    random_shift: int = 0
    random_crop_min_area: float = 1.0
    horizontal_flip: float = 0.0
    trivial_augment: float = 0.0
    random_erasing: float = 0.0
    mix: Mix | None = field(default=None, repr=False)  # not a picture's own look: no part of a cache's key

    def __post_init__(self):
        for name in ("horizontal_flip", "trivial_augment", "random_erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ClipScratchError(f"{name}={getattr(self, name)} is not a probability; choose 0 to 1.")
        if not 0 < self.random_crop_min_area <= 1:
            raise ClipScratchError(
                f"random_crop_min_area={self.random_crop_min_area} is not in (0, 1]; choose 0.6, say."
            )

    def __call__(self, images: torch.Tensor, samples: torch.Tensor, may_flip: torch.Tensor) -> torch.Tensor:
        """
        Args:
            images: uint8 (B, H, W, 3).
            samples: (B,) int64 from `sample_ids`.
            may_flip: (B,) bool, False where the caption speaks of left or right.
        Returns: float32 (B, 3, H, W).
        """
        flip = (uniform(samples, _FLIP) < self.horizontal_flip) & may_flip
        if self.random_shift or self.horizontal_flip:
            images = self._shift_and_flip(images, samples, flip)
        if self.trivial_augment:
            images = trivial_augment(images, samples, may_flip, probability=self.trivial_augment)
        pixels = normalize(images, self.mean, self.std)
        if self.random_crop_min_area < 1:
            pixels = self._crop(pixels, samples)
        return self._erase(pixels, samples) if self.random_erasing else pixels

    def _shift_and_flip(self, images, samples, flip):
        height, width = images.shape[1:3]
        span = 2 * self.random_shift + 1
        down = (uniform(samples, _SHIFT_Y) * span).long() - self.random_shift
        right = (uniform(samples, _SHIFT_X) * span).long() - self.random_shift
        # The edge is repeated: mirrored about it, an 8x8 digit would grow strokes that no hand drew.
        y = (torch.arange(height, device=images.device) + down[:, None]).clamp(0, height - 1)
        x = (torch.arange(width, device=images.device) + right[:, None]).clamp(0, width - 1)
        x = torch.where(flip[:, None], width - 1 - x, x)
        row = torch.arange(len(images), device=images.device)[:, None, None]
        # Whole pixels by their number: indexing by row, y and x would copy byte by byte, in five times the time.
        pixels = ((row * height + y[:, :, None]) * width + x[:, None, :]).flatten()
        return images.reshape(-1, images.shape[3]).index_select(0, pixels).view(images.shape)

    def _crop(self, pixels, samples):
        area = self.random_crop_min_area + (1 - self.random_crop_min_area) * uniform(samples, _SCALE)
        ratio = (4 / 3) ** (2 * uniform(samples, _RATIO) - 1)
        height = (area / ratio).sqrt().clamp(max=1)
        width = (area * ratio).sqrt().clamp(max=1)
        # The crop's centre in grid_sample's coordinates, -1 to 1.
        y = (1 - height) * (2 * uniform(samples, _CROP_Y) - 1)
        x = (1 - width) * (2 * uniform(samples, _CROP_X) - 1)
        zero = torch.zeros_like(x)
        theta = torch.stack([torch.stack([width, zero, x], -1), torch.stack([zero, height, y], -1)], 1)
        with torch.autocast(pixels.device.type, enabled=False):  # the grid's matrix product would be rounded
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
    """Augmented pictures of a batch that are made when a part of them is asked for; each time the same.

    Args:
        images, samples, may_flip: (B, ...) as `Augment` takes them.
        augment: makes (n, 3, H, W) of a part.
    """

    images: torch.Tensor
    samples: torch.Tensor
    may_flip: torch.Tensor
    augment: Augment

    @cached_property
    def mixture(self) -> Mixture | None:
        """What of another picture is in each; `None` where none is mixed."""
        mix = self.augment.mix
        return None if mix is None else mix.draw(self.samples, *self.images.shape[1:3])

    def __len__(self):
        return len(self.images)

    def __getitem__(self, part: slice) -> torch.Tensor:
        own = self._look(part)
        return own if self.mixture is None else self.mixture(own, self._look(self.mixture.partner[part]), part)

    def _look(self, chosen):
        return self.augment(self.images[chosen], self.samples[chosen], self.may_flip[chosen])
