"""Mix each image of a batch with the next one (CutMix, mixup)."""

from dataclasses import dataclass

import torch

from ...utils.errors import ClipScratchError
from .randomness import uniform

_WHETHER, _HOW, _WEIGHT, _Y, _X = range(20, 25)  # draw numbers, apart from those of the augmentation
_LEAST = 1 / 64  # least share of an image that stays its own, so that its caption has an image


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Draw which images of a batch are mixed, and how, by two probabilities.

    With `cutmix`, a rectangle of the next image is pasted in (Yun et al. 2019, arXiv 1905.04899); with `mixup`, the
    next image is blended in (Zhang et al. 2017, arXiv 1710.09412). The share of an image that stays its own is uniform,
    and is the weight of its own captions in the loss. The rest is the weight of the other image's captions.
    """

    cutmix: float = 0.0
    mixup: float = 0.0

    def __post_init__(self):
        if min(self.cutmix, self.mixup) < 0 or self.cutmix + self.mixup > 1:
            raise ClipScratchError(
                f"cutmix={self.cutmix} and mixup={self.mixup} are not probabilities whose sum is at most 1; choose "
                "0.5 and 0.5, or less."
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
