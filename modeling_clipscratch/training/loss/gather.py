"""Exchange tensors, without their gradients, between the processes of a run; one process gets the tensor itself."""

import os

import torch
import torch.distributed as dist


def process_count() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_index() -> int:
    return dist.get_rank() if process_count() > 1 else 0


def local_process_count() -> int:
    """Return how many processes share this machine and its memory, as the launcher set it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def all_rows(rows: torch.Tensor) -> torch.Tensor:
    """Concatenate (b, ...) of each process to (processes * b, ...), in the order of the processes; b must be equal."""
    if process_count() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(process_count())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def own_rows(rows: torch.Tensor) -> torch.Tensor:
    """Return the (b, ...) rows of this process in the (processes * b, ...) that `all_rows` made."""
    return rows.chunk(process_count())[process_index()]


def sum_over_processes(tensor: torch.Tensor) -> torch.Tensor:
    if process_count() == 1:
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total
