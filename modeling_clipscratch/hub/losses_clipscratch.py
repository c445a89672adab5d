"""Contrastive losses of a batch, as functions of its similarities and targets.

Shapes: R images, C texts (R = C = B in a plain batch), P width of the shared space.
"""

import torch
from torch import nn

from .errors_clipscratch import ClipScratchError


def full_precision(tensor):
    """Cast half precisions to float32; leave float32 and float64 as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def unit_length(features):
    """Scale (B, P) features to unit length, in float32 under any autocast."""
    return nn.functional.normalize(full_precision(features), dim=-1)


def contrastive_logits(image_embeds, text_embeds, logit_scale, logit_bias=None):
    """Compute scaled cosine similarities, in float32 under any autocast (float64 stays).

    Args:
        image_embeds: (R, P), unit length.
        text_embeds: (C, P), unit length.
        logit_scale: scalar, natural logarithm of the inverse temperature, already clamped.
        logit_bias: scalar or `None`.

    Returns:
        (R, C).
    """
    device = image_embeds.device  # a device_map may have put the towers on two devices
    with torch.autocast(device.type, enabled=False):
        logits = full_precision(image_embeds) @ full_precision(text_embeds).to(device).t()
        logits = logits * full_precision(logit_scale).exp().to(device)
        return logits if logit_bias is None else logits + full_precision(logit_bias).to(device)


def contrastive_loss(logits, *, loss, group=None, targets=None):
    """Compute the loss that a config names.

    Args:
        logits: (R, C) from `contrastive_logits`.
        loss: `softmax`, `sigmoid` or `diagonal`.
        group: (B,) int64, rows of equal group are positives of each other; `diagonal` ignores it.
        targets: (R, C) weights, which replace `group`. Without either, the pair of a row is its only positive.

    Returns:
        Scalar, nats.

    Raises:
        ClipScratchError: If images and texts differ in number and there are no targets.
    """
    if targets is None:
        if logits.shape[0] != logits.shape[1]:
            raise ClipScratchError(
                f"{logits.shape[0]} images and {logits.shape[1]} texts: the loss pairs row by row; "
                "give as many of each, or targets."
            )
        paired = group is None or loss == "diagonal"
        targets = torch.eye(len(logits), device=logits.device) if paired else group_targets(group)
    return sigmoid_loss(logits, targets) if loss == "sigmoid" else softmax_loss(logits, targets.to(logits.dtype))


def group_targets(group):
    """Make targets (B, B), float32, of groups (B,): 1 where two rows have the same group.

    >>> group_targets(torch.tensor([7, 3, 7])).tolist()
    [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]
    """
    return (group[:, None] == group[None, :]).float()


def softmax_loss(logits, targets):
    """Compute the symmetric cross-entropy with soft targets, which are spread over a row's positives.

    Args:
        logits: (R, C) scaled similarities, images by texts.
        targets: (R, C) weights >= 0; every row and every column needs a positive sum.

    Returns:
        Scalar, nats; ln B if all logits are equal and R = C = B.

    Source: Radford et al. 2021, arXiv 2103.00020, fig. 3; soft targets as in UniCL, Yang et al. 2022, arXiv
        2204.03610, eq. 3 and 4.

    >>> softmax_loss(torch.zeros(4, 4), torch.eye(4)).item() == torch.tensor(4.0).log().item()
    True
    """
    image_to_text = -(targets / targets.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    text_to_image = -(targets / targets.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0).mean()
    return (image_to_text + text_to_image) / 2


def sigmoid_loss(logits, targets):
    """Compute the binary cross-entropy of each pair, summed over a row's columns, averaged over the rows.

    Args:
        logits: (R, C) scaled similarities plus bias.
        targets: (R, C) in [0, 1]; 1 for a positive pair.

    Returns:
        Scalar, nats a row.

    Source: Zhai et al. 2023, arXiv 2303.15343, eq. 1; here a row may have several positives.

    >>> round(sigmoid_loss(torch.zeros(2, 2), torch.eye(2)).item(), 4)  # two pairs a row, ln 2 each
    1.3863
    """
    total = nn.functional.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="sum")
    return total / len(logits)
