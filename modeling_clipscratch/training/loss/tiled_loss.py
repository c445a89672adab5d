"""Each process's embeddings go in; its share of the one global loss comes out, in tiles that never make the square.

Shapes: b pairs on this process, B = processes x b pairs in the global batch, P projection. A process holds its b
rows of images against all B columns of texts, one tile at a time. Definitions: `hub/losses_clipscratch.py`; here the
same loss, and its gradients, are computed a second way, and tests hold the two together.
"""

from dataclasses import dataclass

import torch

from ...hub.losses_clipscratch import full_precision
from .gather import all_rows, combine_logsumexp, own_share_of_sum, process_count, process_index, sum_over_processes

CPU_TILE = 1024  # edge; a tile of 4 MB stays in a CPU's cache
GPU_TILE = 4096


@dataclass(frozen=True, kw_only=True)
class GlobalLoss:
    """
    Args:
        loss: `softmax`, `sigmoid` or `diagonal`.
        tile: edge of a tile, rows and columns; default by the device.
    """

    loss: str
    tile: int | None = None

    def __call__(
        self, image_embeds, text_embeds, logit_scale, logit_bias=None, *, group=None, mixture=None, targets=None
    ):
        """
        Args:
            image_embeds, text_embeds: (b, P), unit length; b is equal on all processes.
            logit_scale: scalar, natural log of the inverse temperature, already clamped.
            logit_bias: scalar or `None`.
            group: (b,) int64, rows of equal group, on whatever process, are positives; `diagonal` ignores it.
            mixture: who is mixed into the images, and how much (`Mixture`): a text that belongs to an image's own group
                weighs as much as the image is its own, one of its partner's group weighs the rest.
            targets: (b, B) weights, this process's rows of the global matrix; go before `group`.
        Returns: (share, statistics): the shares of all processes sum to the global loss (nats), and their gradients
            to its gradient; statistics as in `batch_statistics`, of the global batch.
        Source: the tiling follows Cheng et al. 2024, arXiv 2410.17243; the softmax over both axes, soft targets and
            the column sums that cross processes are worked out here.
        """
        with torch.autocast(image_embeds.device.type, enabled=False):
            given = (image_embeds, text_embeds, logit_scale, logit_bias)
            given = [None if tensor is None else full_precision(tensor) for tensor in given]
            learning = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given)
            return _Streamed.apply(*given, self._square(given[0], group, mixture, targets), learning)

    def _square(self, images, group, mixture, targets):
        edge = self.tile or (CPU_TILE if images.device.type == "cpu" else GPU_TILE)
        if targets is not None:
            return _Square(self.loss, edge, targets.sum(1), sum_over_processes(targets.sum(0)), targets=targets)
        count = len(images) * process_count()
        own = slice(len(images) * process_index(), len(images) * (process_index() + 1))
        if group is None or self.loss == "diagonal":
            columns = torch.arange(count, device=images.device)
        else:
            columns = all_rows(group)
        # A group's number is its first place in the order: `unique` would make the host wait for the device's count.
        order = columns.sort().values
        counts = torch.searchsorted(order, order, right=True) - torch.searchsorted(order, order)
        columns = torch.searchsorted(order, columns)
        counts, rows = counts.to(images.dtype), columns[own]
        groups = {"row_group": rows, "column_group": columns}
        if mixture is None:
            return _Square(self.loss, edge, counts[rows], counts[columns], **groups)
        weight, others = mixture.weight.to(images.dtype), rows[mixture.partner]
        mass = torch.zeros_like(counts).index_add_(0, rows, weight).index_add_(0, others, 1 - weight)
        row_mass = torch.lerp(counts[others], counts[rows], weight)
        column_mass = sum_over_processes(mass)[columns]
        return _Square(self.loss, edge, row_mass, column_mass, **groups, other_group=others, weight=weight)


@dataclass(frozen=True)
class _Square:
    """Which pairs belong together: by groups of rows and columns, or by weights; and each row's and column's mass."""

    loss: str
    edge: int
    row_mass: torch.Tensor
    column_mass: torch.Tensor
    row_group: torch.Tensor | None = None
    column_group: torch.Tensor | None = None
    other_group: torch.Tensor | None = None
    weight: torch.Tensor | None = None
    targets: torch.Tensor | None = None

    def tiles(self):
        rows, columns = len(self.row_mass), len(self.column_mass)
        for r in range(0, rows, self.edge):
            for c in range(0, columns, self.edge):
                yield slice(r, min(r + self.edge, rows)), slice(c, min(c + self.edge, columns))

    def wanted(self, r, c, dtype):
        """The tile's targets."""
        if self.targets is not None:
            return self.targets[r, c].to(dtype)
        own = (self.row_group[r, None] == self.column_group[None, c]).to(dtype)
        if self.weight is None:
            return own
        others = (self.other_group[r, None] == self.column_group[None, c]).to(dtype)
        return torch.lerp(others, own, self.weight[r, None])


class _Streamed(torch.autograd.Function):
    """Loss and gradients in one go: the gradients need the loss's sums, and nothing of what follows it."""

    @staticmethod
    def forward(ctx, images, texts, logit_scale, logit_bias, square, learning):
        all_texts = all_rows(texts)
        scale = logit_scale.exp()
        one_tile = len(images) <= square.edge and len(all_texts) <= square.edge
        kept = {}

        def logits(r, c):
            if one_tile and kept:
                return kept["logits"]
            made = (images[r] @ all_texts[c].t()).mul_(scale)
            made = made if logit_bias is None else made.add_(logit_bias)
            if one_tile:
                kept["logits"] = made
            return made

        first_pass = _FIRST_PASS[square.loss]
        share, slope, statistics = first_pass(square, logits, images, len(all_texts))
        if learning:
            to_images, to_texts = torch.zeros_like(images), torch.zeros_like(all_texts)
            to_scale, to_bias = torch.zeros_like(logit_scale), torch.zeros_like(logit_scale)
            for r, c in square.tiles():
                values = logits(r, c)
                gradient = slope(values, r, c)
                to_images[r].addmm_(gradient, all_texts[c])
                to_texts[c].addmm_(gradient.t(), images[r])
                total = gradient.sum()
                to_scale += (gradient * values).sum() - (0 if logit_bias is None else logit_bias * total)
                to_bias += total
            to_texts = own_share_of_sum(to_texts)
            ctx.made = [to_images.mul_(scale), to_texts.mul_(scale), to_scale, to_bias]
        return share, statistics

    @staticmethod
    def backward(ctx, gradient, _):
        made, ctx.made = ctx.made, None  # scaled in place: a second copy would be most of the memory that is needed
        assert made is not None, "a loss is differentiated once"
        to_images, to_texts, to_scale, to_bias = (tensor.mul_(gradient) for tensor in made)
        return to_images, to_texts, to_scale, to_bias if ctx.needs_input_grad[3] else None, None, None


def _softmax_sums(square, logits, images, count):
    """First pass of both softmaxes: the share of the loss, the slope of a tile, the statistics."""
    row, column = _Axis(len(images), images), _Axis(count, images)
    for r, c in square.tiles():
        values, wanted = logits(r, c), square.wanted(r, c, images.dtype)
        row.add(r, values, wanted, 1)
        column.add(c, values, wanted, 0)
    column_lse = combine_logsumexp(column.logsumexp)
    column_loss = column_lse - sum_over_processes(column.wanted) / square.column_mass
    own = slice(len(images) * process_index(), len(images) * (process_index() + 1))
    share = ((row.logsumexp - row.wanted / square.row_mass).sum() + column_loss[own].sum()) / (2 * count)

    def slope(values, r, c):
        gradient = (values - row.logsumexp[r, None]).exp_()
        gradient += (values - column_lse[None, c]).exp_()
        mass = 1 / square.row_mass[r, None] + 1 / square.column_mass[None, c]
        gradient -= square.wanted(r, c, images.dtype).mul_(mass)
        return gradient.mul_(1 / (2 * count))

    return share, slope, _statistics(row, column)


def _sigmoid_sums(square, logits, images, count):
    """The same for the pairwise loss, whose pairs do not know of each other."""
    row, column = _Axis(len(images), images), _Axis(count, images)
    share = images.new_zeros(())
    for r, c in square.tiles():
        values, wanted = logits(r, c), square.wanted(r, c, images.dtype)
        share += torch.nn.functional.binary_cross_entropy_with_logits(values, wanted, reduction="sum") / count
        row.count(r, values, wanted, 1)
        column.count(c, values, wanted, 0)

    def slope(values, r, c):
        return values.sigmoid().sub_(square.wanted(r, c, images.dtype)).mul_(1 / count)

    return share, slope, _statistics(row, column)


_FIRST_PASS = {"softmax": _softmax_sums, "diagonal": _softmax_sums, "sigmoid": _sigmoid_sums}


class _Axis:
    """What is summed over one axis of the square, tile by tile, for each row (or column)."""

    def __init__(self, count, like):
        self.logsumexp = like.new_full((count,), -torch.inf)
        self.wanted = like.new_zeros(count)  # sum of target x logit
        self.positives = like.new_zeros(count)
        self.best = like.new_full((count,), -torch.inf)
        self.best_is_positive = like.new_zeros(count)

    def add(self, part, values, wanted, over):
        self.logsumexp[part] = torch.logaddexp(self.logsumexp[part], values.logsumexp(over))
        self.wanted[part] += (values * wanted).sum(over)
        self.count(part, values, wanted, over)

    def count(self, part, values, wanted, over):
        positive = wanted > 0
        self.positives[part] += positive.sum(over)
        best, place = values.max(over, keepdim=True)
        better = (best > self.best[part].unsqueeze(over)).squeeze(over)
        found = positive.gather(over, place).squeeze(over).to(values.dtype)
        self.best_is_positive[part] = torch.where(better, found, self.best_is_positive[part])
        self.best[part] = torch.where(better, best.squeeze(over), self.best[part])


def _statistics(row, column):
    """`batch_statistics` of the global batch; a column's best may stand on any process."""
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
