"""Each process's tensor goes in; all processes' rows, in rank order, come out, with gradients back to their owner."""

import torch
import torch.distributed as dist


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """(b, ...) -> (world * b, ...); every process must hold as many rows. The same tensor without processes.

    The backward pass sums what all processes want of a row. With the full loss on every process and DDP's mean over
    processes, each parameter so gets the gradient of the one global loss.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    return _GatherRows.apply(rows)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows):
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.clone(memory_format=torch.contiguous_format)  # others may hold it; the sum is in place
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]
