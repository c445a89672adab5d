"""Compute each process's share of the global contrastive loss in tiles, without the whole matrix of similarities.

Shapes: b pairs on this process, B = processes x b pairs in the global batch, P projection. A process compares its b
images with all B texts, one tile at a time. `hub/losses_clipscratch.py` defines the losses; tests hold loss and
gradients of both to each other.
"""

import torch

from ...hub.losses_clipscratch import full_precision
from .gather import all_rows, own_rows, process_count, sum_over_processes

CPU_TILE = 1024  # edge; a tile of 4 MB stays in a CPU's cache
GPU_TILE = 4096


def loss_floor(groups: torch.Tensor) -> torch.Tensor:
    """Compute the lowest value that the `softmax` loss can take for (B,) groups: the entropy of its targets.

    >>> loss_floor(torch.tensor([7, 7, 3, 5])).item()  # ln 2 for two of the four rows
    0.3465735912322998
    """
    counts, columns = _count(groups)
    return counts[columns].float().log().mean()


def _count(groups):
    """(B,) groups -> number of rows of each group, and each row's group as a place in those numbers."""
    # A group's place is its first one in the order: `unique` would make the host wait for the number of groups.
    ordered = groups.sort().values
    counts = torch.searchsorted(ordered, ordered, right=True) - torch.searchsorted(ordered, ordered)
    return counts, torch.searchsorted(ordered, groups)


def global_loss(image_embeds, text_embeds, logit_scale, logit_bias=None, *, loss, group=None, tile=None):
    """Compute this process's share of the loss over the pairs of all processes.

    Args:
        image_embeds, text_embeds: (b, P), unit length; b is equal on all processes.
        logit_scale, logit_bias: scalars; the natural log of the inverse temperature, already clamped; or `None`.
        group: (b,) int64; rows of equal group, on whatever process, are positives. `diagonal` ignores it.

    Returns:
        (share, statistics): shares, and their gradients, sum over the processes to those of the global loss (nats).
        Statistics are scalars in [0, 1] of the global batch: `positive_share` (pairs that are positives),
        `image_to_text_accuracy` and `text_to_image_accuracy` (the most similar one is a positive).

    Source: the tiling follows Cheng et al. 2024, arXiv 2410.17243, extended to both axes, soft targets and column sums
        over processes.
    """
    device = image_embeds.device.type
    with torch.autocast(device, enabled=False):
        inputs = (image_embeds, text_embeds, logit_scale, logit_bias)
        inputs = [None if tensor is None else full_precision(tensor) for tensor in inputs]
        needs_grad = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
        targets = _Targets(inputs[0], None if loss == "diagonal" else group)
        edge = tile or (CPU_TILE if device == "cpu" else GPU_TILE)
        return _TiledLoss.apply(*inputs, loss == "sigmoid", targets, edge, needs_grad)


class _Targets:
    """The positives among the pairs of b images and B texts, and their number in each row and column."""

    def __init__(self, images, group):
        if group is None:
            columns = torch.arange(len(images) * process_count(), device=images.device)
        else:
            columns = all_rows(group)
        counts, self.columns = _count(columns)
        self.counts, self.rows = counts.to(images.dtype), own_rows(self.columns)
        self.row_mass, self.column_mass = self.counts[self.rows], self.counts[self.columns]

    def tile(self, r, c):
        return (self.rows[r, None] == self.columns[None, c]).to(self.counts.dtype)


class _TiledLoss(torch.autograd.Function):
    """Loss and gradients in one go: the gradients need the sums of the loss, and nothing of what follows it."""

    @staticmethod
    def forward(ctx, images, texts, logit_scale, logit_bias, sigmoid, targets, edge, needs_grad):
        all_texts, scale, kept = all_rows(texts), logit_scale.exp(), []
        count = len(all_texts)
        starts = [(r, c) for r in range(0, len(images), edge) for c in range(0, count, edge)]
        tiles = [(slice(r, r + edge), slice(c, c + edge)) for r, c in starts]

        def logits(r, c):
            if kept:
                return kept[0]
            values = (images[r] @ all_texts[c].t()).mul_(scale)
            values = values if logit_bias is None else values.add_(logit_bias)
            if len(tiles) == 1:
                kept.append(values)
            return values

        row, column, share = _Axis(len(images), images), _Axis(count, images), images.new_zeros(())
        for r, c in tiles:
            values, weights = logits(r, c), targets.tile(r, c)
            row.add(r, values, weights, 1)
            column.add(c, values, weights, 0)
            if sigmoid:  # no pair depends on another
                share += torch.nn.functional.binary_cross_entropy_with_logits(values, weights, reduction="sum") / count
        if not sigmoid:
            column_lse = column.logsumexp if process_count() == 1 else all_rows(column.logsumexp[None]).logsumexp(0)
            row_loss = row.logsumexp - row.weighted / targets.row_mass
            column_loss = column_lse - sum_over_processes(column.weighted) / targets.column_mass
            share = (row_loss.sum() + own_rows(column_loss).sum()) / (2 * count)
        if needs_grad:
            to_images, to_texts = torch.zeros_like(images), torch.zeros_like(all_texts)
            to_scale, to_bias = torch.zeros_like(logit_scale), torch.zeros_like(logit_scale)
            for r, c in tiles:
                values, weights = logits(r, c), targets.tile(r, c)
                if sigmoid:
                    gradient = values.sigmoid().sub_(weights).mul_(1 / count)
                else:
                    gradient = (values - row.logsumexp[r, None]).exp_()
                    gradient += (values - column_lse[None, c]).exp_()
                    gradient -= weights.mul_(1 / targets.row_mass[r, None] + 1 / targets.column_mass[None, c])
                    gradient.mul_(1 / (2 * count))
                to_images[r].addmm_(gradient, all_texts[c])
                to_texts[c].addmm_(gradient.t(), images[r])
                total = gradient.sum()
                to_scale += (gradient * values).sum() - (0 if logit_bias is None else logit_bias * total)
                to_bias += total
            to_texts = own_rows(sum_over_processes(to_texts))
            ctx.gradients = [to_images.mul_(scale), to_texts.mul_(scale), to_scale, to_bias]
        return share, _statistics(row, column)

    @staticmethod
    def backward(ctx, gradient, _):
        gradients, ctx.gradients = ctx.gradients, None  # scaled in place: a copy would double the memory of the loss
        assert gradients is not None, "a loss is differentiated once"
        to_images, to_texts, to_scale, to_bias = (tensor.mul_(gradient) for tensor in gradients)
        return to_images, to_texts, to_scale, to_bias if ctx.needs_input_grad[3] else None, None, None, None, None


class _Axis:
    """Sums and maxima over one axis of the matrix, tile by tile, for each row (or column)."""

    def __init__(self, count, like):
        self.logsumexp = like.new_full((count,), -torch.inf)
        self.weighted = like.new_zeros(count)  # sum of weight x logit
        self.positives = like.new_zeros(count)
        self.best = like.new_full((count,), -torch.inf)
        self.best_is_positive = like.new_zeros(count)

    def add(self, part, values, weights, over):
        self.logsumexp[part] = torch.logaddexp(self.logsumexp[part], values.logsumexp(over))
        self.weighted[part] += (values * weights).sum(over)
        positive = weights > 0
        self.positives[part] += positive.sum(over)
        best, place = values.max(over)
        is_positive = positive.gather(over, place.unsqueeze(over)).squeeze(over).to(values.dtype)
        self.best_is_positive[part] = torch.where(best > self.best[part], is_positive, self.best_is_positive[part])
        self.best[part] = torch.maximum(self.best[part], best)


def _statistics(row, column):
    bests, positives = (all_rows(part[None]) for part in (column.best, column.best_is_positive))
    text_to_image = positives.gather(0, bests.argmax(0, keepdim=True)).mean()  # the best image may be on any process
    count = len(column.best)
    of_rows = torch.stack([row.positives.sum() / count**2, row.best_is_positive.sum() / count])
    share, image_to_text = sum_over_processes(of_rows).unbind()
    names = ("positive_share", "image_to_text_accuracy", "text_to_image_accuracy")
    return dict(zip(names, (share, image_to_text, text_to_image), strict=True))
