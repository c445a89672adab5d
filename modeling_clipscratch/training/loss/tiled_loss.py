"""Compute each process's share of the global contrastive loss in tiles, without the whole matrix of similarities.

Shapes: b pairs on this process, B = processes x b pairs in the global batch, P projection. A process compares its b
images with all B texts, one tile at a time. `hub/losses_clipscratch.py` defines the losses; tests hold loss and
gradients of both to each other.
"""

from dataclasses import dataclass

import torch

from ...hub.losses_clipscratch import full_precision
from .gather import all_rows, own_rows, process_count, sum_over_processes

CPU_TILE = 1024  # edge; a tile of 4 MB stays in a CPU's cache
GPU_TILE = 4096


def loss_floor(groups: torch.Tensor) -> torch.Tensor:
    """Compute the lowest value that the `softmax` loss can take for a batch: the entropy of its targets.

    The targets of a row are spread equally over its positives, so their entropy is the logarithm of the number of
    positives. The host does not wait for the device. Not a bound where images are mixed.

    Args:
        groups: (B,) int64 of the global batch; rows of equal group are positives of each other.

    Returns:
        Scalar, nats: 0 if each row is its own only positive, ln B if all rows are positives of each other.

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


@dataclass(frozen=True, kw_only=True)
class GlobalLoss:
    """The loss over the pairs of all processes.

    Args:
        loss: `softmax`, `sigmoid` or `diagonal`.
        tile: edge of a tile in rows and columns; `None` chooses it by the device.

    Source: the tiling follows Cheng et al. 2024, arXiv 2410.17243, extended to both axes, soft targets and column sums
        over processes.
    """

    loss: str
    tile: int | None = None

    def __call__(self, image_embeds, text_embeds, logit_scale, logit_bias=None, *, group=None, mixture=None):
        """Compute this process's share of the loss.

        Args:
            image_embeds: (b, P), unit length; b is equal on all processes.
            text_embeds: (b, P), unit length.
            logit_scale: scalar, natural log of the inverse temperature, already clamped.
            logit_bias: scalar or `None`.
            group: (b,) int64; rows of equal group, on whatever process, are positives. `diagonal` ignores it.
            mixture: `Mixture` of the images. A text of an image's own group weighs as much as the image is its own, a
                text of its partner's group weighs the rest.

        Returns:
            (share, statistics): the shares of all processes sum to the global loss (nats), and their gradients to its
            gradient. Statistics are scalars in [0, 1] of the global batch: `positive_share` (pairs that are positives),
            `image_to_text_accuracy` and `text_to_image_accuracy` (the most similar one is a positive).
        """
        with torch.autocast(image_embeds.device.type, enabled=False):
            inputs = (image_embeds, text_embeds, logit_scale, logit_bias)
            inputs = [None if tensor is None else full_precision(tensor) for tensor in inputs]
            needs_grad = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
            return _TiledLoss.apply(*inputs, self._targets(inputs[0], group, mixture), needs_grad)

    def _targets(self, images, group, mixture):
        edge = self.tile or (CPU_TILE if images.device.type == "cpu" else GPU_TILE)
        if group is None or self.loss == "diagonal":
            columns = torch.arange(len(images) * process_count(), device=images.device)
        else:
            columns = all_rows(group)
        counts, columns = _count(columns)
        counts, rows = counts.to(images.dtype), own_rows(columns)
        groups = {"loss": self.loss, "edge": edge, "row_group": rows, "column_group": columns}
        if mixture is None:
            return _Targets(**groups, row_mass=counts[rows], column_mass=counts[columns])
        weight, partners = mixture.weight.to(images.dtype), rows[mixture.partner]
        mass = torch.zeros_like(counts).index_add_(0, rows, weight).index_add_(0, partners, 1 - weight)
        row_mass = torch.lerp(counts[partners], counts[rows], weight)
        masses = {"row_mass": row_mass, "column_mass": sum_over_processes(mass)[columns]}
        return _Targets(**groups, **masses, partner_group=partners, weight=weight)


@dataclass(frozen=True, kw_only=True)
class _Targets:
    """The weight of each pair of b images and B texts, by their groups, and its sum over each row and column."""

    loss: str
    edge: int
    row_group: torch.Tensor
    column_group: torch.Tensor
    row_mass: torch.Tensor
    column_mass: torch.Tensor
    partner_group: torch.Tensor | None = None
    weight: torch.Tensor | None = None

    def tiles(self):
        rows, columns = len(self.row_mass), len(self.column_mass)
        for r in range(0, rows, self.edge):
            for c in range(0, columns, self.edge):
                yield slice(r, min(r + self.edge, rows)), slice(c, min(c + self.edge, columns))

    def tile(self, r, c, dtype):
        own = (self.row_group[r, None] == self.column_group[None, c]).to(dtype)
        if self.weight is None:
            return own
        partners = (self.partner_group[r, None] == self.column_group[None, c]).to(dtype)
        return torch.lerp(partners, own, self.weight[r, None])


class _TiledLoss(torch.autograd.Function):
    """Loss and gradients in one go: the gradients need the sums of the loss, and nothing of what follows it."""

    @staticmethod
    def forward(ctx, images, texts, logit_scale, logit_bias, targets, needs_grad):
        all_texts = all_rows(texts)
        scale = logit_scale.exp()
        one_tile = len(images) <= targets.edge and len(all_texts) <= targets.edge
        kept = {}

        def logits(r, c):
            if one_tile and kept:
                return kept["logits"]
            values = (images[r] @ all_texts[c].t()).mul_(scale)
            values = values if logit_bias is None else values.add_(logit_bias)
            if one_tile:
                kept["logits"] = values
            return values

        first_pass = _sigmoid_sums if targets.loss == "sigmoid" else _softmax_sums
        share, slope, statistics = first_pass(targets, logits, images, len(all_texts))
        if needs_grad:
            to_images, to_texts = torch.zeros_like(images), torch.zeros_like(all_texts)
            to_scale, to_bias = torch.zeros_like(logit_scale), torch.zeros_like(logit_scale)
            for r, c in targets.tiles():
                values = logits(r, c)
                gradient = slope(values, r, c)
                to_images[r].addmm_(gradient, all_texts[c])
                to_texts[c].addmm_(gradient.t(), images[r])
                total = gradient.sum()
                to_scale += (gradient * values).sum() - (0 if logit_bias is None else logit_bias * total)
                to_bias += total
            to_texts = own_rows(sum_over_processes(to_texts))
            ctx.gradients = [to_images.mul_(scale), to_texts.mul_(scale), to_scale, to_bias]
        return share, statistics

    @staticmethod
    def backward(ctx, gradient, _):
        gradients, ctx.gradients = ctx.gradients, None  # scaled in place: a copy would double the memory of the loss
        assert gradients is not None, "a loss is differentiated once"
        to_images, to_texts, to_scale, to_bias = (tensor.mul_(gradient) for tensor in gradients)
        return to_images, to_texts, to_scale, to_bias if ctx.needs_input_grad[3] else None, None, None


def _softmax_sums(targets, logits, images, count):
    """Return the share of the softmax loss, the function that gives a tile's gradient, and the statistics."""
    row, column = _Axis(len(images), images), _Axis(count, images)
    for r, c in targets.tiles():
        values, weights = logits(r, c), targets.tile(r, c, images.dtype)
        row.add(r, values, weights, 1)
        column.add(c, values, weights, 0)
    column_lse = column.logsumexp if process_count() == 1 else all_rows(column.logsumexp[None]).logsumexp(0)
    row_loss = row.logsumexp - row.weighted / targets.row_mass
    column_loss = column_lse - sum_over_processes(column.weighted) / targets.column_mass
    share = (row_loss.sum() + own_rows(column_loss).sum()) / (2 * count)

    def slope(values, r, c):
        gradient = (values - row.logsumexp[r, None]).exp_()
        gradient += (values - column_lse[None, c]).exp_()
        mass = 1 / targets.row_mass[r, None] + 1 / targets.column_mass[None, c]
        gradient -= targets.tile(r, c, images.dtype).mul_(mass)
        return gradient.mul_(1 / (2 * count))

    return share, slope, _statistics(row, column)


def _sigmoid_sums(targets, logits, images, count):
    """Return the same for the pairwise loss, where no pair depends on another."""
    row, column = _Axis(len(images), images), _Axis(count, images)
    share = images.new_zeros(())
    for r, c in targets.tiles():
        values, weights = logits(r, c), targets.tile(r, c, images.dtype)
        share += torch.nn.functional.binary_cross_entropy_with_logits(values, weights, reduction="sum") / count
        row.count(r, values, weights, 1)
        column.count(c, values, weights, 0)

    def slope(values, r, c):
        return values.sigmoid().sub_(targets.tile(r, c, images.dtype)).mul_(1 / count)

    return share, slope, _statistics(row, column)


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
        self.count(part, values, weights, over)

    def count(self, part, values, weights, over):
        positive = weights > 0
        self.positives[part] += positive.sum(over)
        best, place = values.max(over, keepdim=True)
        better = (best > self.best[part].unsqueeze(over)).squeeze(over)
        is_positive = positive.gather(over, place).squeeze(over).to(values.dtype)
        self.best_is_positive[part] = torch.where(better, is_positive, self.best_is_positive[part])
        self.best[part] = torch.where(better, best.squeeze(over), self.best[part])


def _statistics(row, column):
    """See `GlobalLoss`; the best image of a text may be on any process."""
    bests, positives = (all_rows(part[None]) for part in (column.best, column.best_is_positive))
    text_to_image = positives.gather(0, bests.argmax(0, keepdim=True)).mean()
    count = len(column.best)
    of_rows = torch.stack([row.positives.sum() / count**2, row.best_is_positive.sum() / count])
    share, image_to_text = sum_over_processes(of_rows).unbind()
    return {
        "positive_share": share,
        "image_to_text_accuracy": image_to_text,
        "text_to_image_accuracy": text_to_image,
    }
