"""The pictures of a batch go in; each with a part of another one comes out, and how much of it is still its own."""

from dataclasses import dataclass

import torch

from ...hub.errors_clipscratch import ClipScratchError
from .randomness import uniform

_WHETHER, _HOW, _WEIGHT, _Y, _X = range(20, 25)  # draw numbers, apart from those of the augmentation
_LEAST = 1 / 64  # of a picture that stays its own: with nothing left its caption would have no picture


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Which share of a batch's pictures is mixed with the next one of the batch, and how.

    Args:
        cutmix: probability that a rectangle of the next picture is pasted in.
        mixup: probability that the next picture shines through.

    How much of a picture stays its own is drawn evenly, and is the weight of its own captions in the loss; the rest
    is the weight of the other's.

    Raises: ClipScratchError for probabilities that are none, or are more than 1 together.
    Source: Yun et al. 2019, arXiv 1905.04899; Zhang et al. 2017, arXiv 1710.09412.
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
        """
        Args:
            samples: (B,) int64 from `sample_ids`.
            height, width: of the pictures, pixels.
        """
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
    """What is done to each picture of one batch.

    Attributes:
        partner: (B,) int64, place in the batch of the other picture.
        weight: (B,) float in (0, 1], how much of the picture is its own.
        cut: (B,) bool, pasted rather than shining through.
        box: (4, B) int64, top, bottom, left and right of what is pasted.
    """

    partner: torch.Tensor
    weight: torch.Tensor
    cut: torch.Tensor
    box: torch.Tensor

    def __call__(self, own: torch.Tensor, others: torch.Tensor, part: slice) -> torch.Tensor:
        """(n, 3, H, W) pictures of a part of the batch and their partners -> (n, 3, H, W)."""
        top, bottom, left, right = self.box[:, part, None]
        y, x = (torch.arange(edge, device=own.device) for edge in own.shape[2:])
        inside_y, inside_x = (y >= top) & (y < bottom), (x >= left) & (x < right)
        kept = (~(inside_y[:, :, None] & inside_x[:, None, :])).to(own.dtype)
        kept = torch.where(self.cut[part, None, None], kept, self.weight[part, None, None])
        return torch.lerp(others, own, kept[:, None])
