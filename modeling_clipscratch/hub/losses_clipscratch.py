"""Embeddings and targets go in; one scalar loss (nats) and the batch's statistics come out. Pure functions.

Shapes: R image rows, C text columns (R = C = B in a plain batch), P projection.
"""

import torch
from torch import nn

from .errors_clipscratch import ClipScratchError


def group_targets(row_group, column_group=None):
    """Positives from groups: rows of equal group mean the same.

    Args:
        row_group: (R,) int64.
        column_group: (C,) int64; default the rows' own.
    Returns: (R, C) float32, 1 where the groups are equal.

    >>> group_targets(torch.tensor([7, 3, 7])).tolist()
    [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]
    """
    column_group = row_group if column_group is None else column_group
    return (row_group[:, None] == column_group[None, :]).float()


def softmax_loss(logits, targets):
    """Symmetric cross-entropy with soft targets: each row's target mass is spread over its positives.

    Args:
        logits: (R, C) scaled similarities, images by texts.
        targets: (R, C) weights >= 0; every row and every column needs some mass.
    Returns: scalar, nats; ln B when all logits are equal and R = C = B.
    Source: Radford et al. 2021, arXiv 2103.00020, fig. 3; soft targets as in UniCL, Yang et al. 2022, arXiv
        2204.03610, eq. 3 and 4.

    >>> softmax_loss(torch.zeros(4, 4), torch.eye(4)).item() == torch.tensor(4.0).log().item()
    True
    """
    image_to_text = -(targets / targets.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    text_to_image = -(targets / targets.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0).mean()
    return (image_to_text + text_to_image) / 2


def sigmoid_loss(logits, targets):
    """Every pair on its own: a binary cross-entropy a pair, summed over a row's columns, averaged over the rows.

    Args:
        logits: (R, C) scaled similarities plus bias.
        targets: (R, C) in [0, 1]; 1 for a positive pair.
    Returns: scalar, nats a row.
    Source: Zhai et al. 2023, arXiv 2303.15343, eq. 1; here several positives a row count.

    >>> round(sigmoid_loss(torch.zeros(2, 2), torch.eye(2)).item(), 4)  # two pairs a row, ln 2 each
    1.3863
    """
    return nn.functional.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="sum") / len(
        logits
    )


def contrastive_logits(image_embeds, text_embeds, logit_scale, logit_bias=None):
    """Scaled cosine similarities, in float32 under any autocast (float64 stays).

    Args:
        image_embeds: (R, P), unit length.
        text_embeds: (C, P), unit length.
        logit_scale: scalar, natural log of the inverse temperature, already clamped.
        logit_bias: scalar or `None`.
    Returns: (R, C).
    """
    device = image_embeds.device  # a device_map may have put the towers on two
    with torch.autocast(device.type, enabled=False):
        logits = full_precision(image_embeds) @ full_precision(text_embeds).to(device).t()
        logits = logits * full_precision(logit_scale).exp().to(device)
        return logits if logit_bias is None else logits + full_precision(logit_bias).to(device)


def contrastive_loss(logits, *, loss, group=None, targets=None):
    """The loss that a config names.

    Args:
        logits: (R, C) from `contrastive_logits`.
        loss: `softmax`, `sigmoid` or `diagonal`.
        group: (B,) int64, rows of equal group are positives; `diagonal` ignores it.
        targets: (R, C) weights; go before `group`. Without either, each row's own partner is its only positive.
    Returns: scalar, nats.
    Raises: ClipScratchError if images and texts differ in number and no targets say which belong together.
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


def batch_statistics(logits, targets):
    """How hard the batch is and how well it is solved, for the log.

    Args:
        logits: (R, C).
        targets: (R, C), above 0 for a positive pair.
    Returns: dict of scalars in [0, 1]: `positive_share` (pairs that mean the same), `image_to_text_accuracy` and
        `text_to_image_accuracy` (the best column of a row, the best row of a column, is a positive).

    >>> batch_statistics(torch.eye(2), torch.eye(2))["image_to_text_accuracy"].item()
    1.0
    """
    positive = targets > 0
    return {
        "positive_share": positive.float().mean(),
        "image_to_text_accuracy": positive.gather(1, logits.argmax(1, keepdim=True)).float().mean(),
        "text_to_image_accuracy": positive.gather(0, logits.argmax(0, keepdim=True)).float().mean(),
    }


def full_precision(tensor):
    """Half precisions become float32; float32 and float64 stay."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
