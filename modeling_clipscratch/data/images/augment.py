"""Augment and mix batches of uint8 images on their device, with all random numbers drawn from the samples' ids."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import nn

from ...utils.errors import ClipScratchError
from .preprocess import normalize
from .randomness import uniform

# One draw number a decision, so that one augmentation more does not change the draws of the others.
_FLIP, _SHIFT_Y, _SHIFT_X, _SCALE, _RATIO, _CROP_Y, _CROP_X, _ERASE, _ERASE_Y, _ERASE_X, _ERASE_AREA, _ERASE_RATIO = (
    range(12)
)
_WHETHER, _HOW, _WEIGHT, _Y, _X = range(20, 25)  # of mixing
_LEAST = 1 / 64  # least share of a mixed image that stays its own, so that its caption has an image


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Mix images of a batch with the next one: paste a rectangle of it in (CutMix, Yun et al. 2019, arXiv 1905.04899),
    or blend it in (mixup, Zhang et al. 2017, arXiv 1710.09412), by two probabilities.

    The share of an image that stays its own is uniform, and is the weight of its own captions in the loss.
    """

    cutmix: float = 0.0
    mixup: float = 0.0

    def __post_init__(self):
        if min(self.cutmix, self.mixup) < 0 or self.cutmix + self.mixup > 1:
            raise ClipScratchError(
                f"cutmix={self.cutmix} and mixup={self.mixup} are not probabilities whose sum is at most 1."
            )

    def draw(self, samples: torch.Tensor, height: int, width: int) -> "Mixture":
        """Draw the mixture of a batch of images of height x width pixels, from (B,) int64 `sample_ids`."""
        whether, how = uniform(samples, _WHETHER) < self.cutmix + self.mixup, uniform(samples, _HOW)
        cut = whether & (how * (self.cutmix + self.mixup) < self.cutmix)
        weight = _LEAST + (1 - _LEAST) * uniform(samples, _WEIGHT)
        tall, wide = ((1 - weight).sqrt() * edge for edge in (height, width))
        top = (uniform(samples, _Y) * (height - tall)).round().long()
        left = (uniform(samples, _X) * (width - wide)).round().long()
        tall, wide = tall.floor().long(), wide.floor().long()
        pasted = 1 - tall * wide / (height * width)
        weight = torch.where(cut, pasted, torch.where(whether, weight, 1.0))
        partner = (torch.arange(len(samples), device=samples.device) + 1) % len(samples)
        return Mixture(partner, weight, cut, torch.stack([top, top + tall, left, left + wide]))


@dataclass(frozen=True)
class Mixture:
    """How each image of a batch is mixed."""

    partner: torch.Tensor  # (B,) int64, index in the batch of the other image
    weight: torch.Tensor  # (B,) float in (0, 1], share of the image that is its own
    cut: torch.Tensor  # (B,) bool, whether the other image is pasted rather than blended
    box: torch.Tensor  # (4, B) int64, top, bottom, left and right of the pasted rectangle

    def __call__(self, own: torch.Tensor, others: torch.Tensor, part: slice) -> torch.Tensor:
        """Mix (n, 3, H, W) images of a part of the batch with their partners."""
        top, bottom, left, right = self.box[:, part, None]
        y, x = (torch.arange(edge, device=own.device) for edge in own.shape[2:])
        inside_y, inside_x = (y >= top) & (y < bottom), (x >= left) & (x < right)
        kept = (~(inside_y[:, :, None] & inside_x[:, None, :])).to(own.dtype)
        kept = torch.where(self.cut[part, None, None], kept, self.weight[part, None, None])
        return torch.lerp(others, own, kept[:, None])


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
    mix: Mix | None = field(default=None, repr=False)  # mixes images, so it is not part of the key of a cache

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

    @cached_property
    def mixture(self) -> Mixture | None:
        """How the images are mixed; `None` if they are not."""
        mix = self.augment.mix
        return None if mix is None else mix.draw(self.samples, *self.images.shape[1:3])

    def __len__(self):
        return len(self.images)

    def __getitem__(self, part: slice) -> torch.Tensor:
        own = self._augmented(part)
        return own if self.mixture is None else self.mixture(own, self._augmented(self.mixture.partner[part]), part)

    def _augmented(self, chosen):
        return self.augment(self.images[chosen], self.samples[chosen], self.may_flip[chosen])
