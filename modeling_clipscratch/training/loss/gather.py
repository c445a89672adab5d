"""Each process's tensor goes in; what all processes have together comes out. Without processes: the tensor itself.

None of these carries gradients: `streamed_loss.py` sends its own.
"""

import os

import torch
import torch.distributed as dist


def process_count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_index() -> int:
    """Number of this process among them, from 0."""
    return dist.get_rank() if process_count() > 1 else 0


def local_process_count() -> int:
    """How many of them share this machine and its memory, as the launcher says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def all_rows(rows: torch.Tensor) -> torch.Tensor:
    """(b, ...) -> (processes * b, ...), in the order of the processes; every process must hold as many rows."""
    if process_count() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(process_count())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def own_rows(rows: torch.Tensor) -> torch.Tensor:
    """(processes * b, ...) -> (b, ...): the rows of this process, which `all_rows` put together."""
    return rows.chunk(process_count())[process_index()]


def sum_over_processes(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of all processes' tensors, on every one."""
    if process_count() == 1:
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total


def own_share_of_sum(rows: torch.Tensor) -> torch.Tensor:
    """(processes * b, ...) on each -> (b, ...): the rows of this process in the sum of all processes' tensors."""
    if process_count() == 1:
        return rows
    share = torch.empty_like(rows[: len(rows) // process_count()])
    dist.reduce_scatter_tensor(share, rows.contiguous())
    return share


def combine_logsumexp(parts: torch.Tensor) -> torch.Tensor:
    """(C,) logarithms of sums -> (C,) logarithm of the sum over all processes."""
    return parts if process_count() == 1 else all_rows(parts[None]).logsumexp(0)
