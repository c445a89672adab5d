"""What the user said of batch, processes and chunks goes in; one global batch, shared out, comes out.

The loss compares all pairs of the global batch, G = processes x rows of a process. How many of its rows a process
encodes at once, its chunk, changes memory and time, never the loss.
"""

import logging
import os
from pathlib import Path

import torch
import torch.distributed as dist

from ...hub.errors_clipscratch import ClipScratchError
from .gather import local_process_count, process_count

logger = logging.getLogger(__name__)

DEFAULT_BATCH = 256
_MARGIN = 1.5  # what a step takes beyond the activations kept for the backward pass: gradients, one layer's temporaries


def settle_global_batch(args) -> None:
    """Works out the rows of a process and its chunk from `global_batch_size` and the Trainer's own two fields.

    `per_device_train_batch_size` x `gradient_accumulation_steps` x processes is the global batch, in chunks of
    `per_device_train_batch_size`, so that accumulation makes a true larger contrastive batch. Afterwards
    `per_device_train_batch_size` holds all rows of a process and `gradient_accumulation_steps` is 1.

    Raises: ClipScratchError for numbers that do not fit together, or switches that would compute another loss in
        silence.
    """
    processes, accumulated = args.world_size, args.gradient_accumulation_steps
    at_once, chunk = args.per_device_train_batch_size, _chunk(args.encode_chunk_size)
    batch = args.global_batch_size
    if batch is None:
        batch = DEFAULT_BATCH if at_once is None else at_once * accumulated * processes
    if batch < 2:
        raise ClipScratchError(
            f"global_batch_size={batch} leaves a contrastive loss nothing to compare; choose 2 or more (left out, it "
            "is per_device_train_batch_size x gradient_accumulation_steps x processes)."
        )
    if batch < processes or batch % processes:
        fits = max(batch // processes, 1) * processes
        raise ClipScratchError(
            f"global_batch_size={batch} cannot be shared equally among {processes} processes; choose {fits} or "
            f"{fits + processes}."
        )
    rows = batch // processes
    if at_once is None:
        at_once = -(-rows // accumulated)
    elif at_once > rows or rows % at_once or (accumulated > 1 and at_once * accumulated != rows):
        raise ClipScratchError(
            f"global_batch_size={batch} is not {processes} processes x per_device_train_batch_size={at_once} x "
            f"gradient_accumulation_steps={accumulated}; leave the last two out (they follow), or change one."
        )
    if at_once < rows:
        if chunk not in ("auto", at_once):
            raise ClipScratchError(
                f"encode_chunk_size={chunk} and per_device_train_batch_size={at_once} both say how many pairs are "
                "encoded at once; leave one out."
            )
        chunk = at_once
    args.global_batch_size, args.per_device_train_batch_size = batch, rows
    args.gradient_accumulation_steps, args.encode_chunk_size = 1, chunk
    _refuse_other_losses(args)


def _chunk(said):
    if said == "auto":
        return said
    if not str(said).isdigit() or int(said) == 0:
        raise ClipScratchError(f"encode_chunk_size={said!r} is neither auto nor a number of pairs; choose 64, or auto.")
    return int(said)


def _refuse_other_losses(args):
    why = {
        "auto_find_batch_size": (args.auto_find_batch_size, "makes the batch smaller; set encode_chunk_size to auto"),
        "label_smoothing_factor": (args.label_smoothing_factor > 0, "is not part of a contrastive loss; leave it out"),
        "dataloader_drop_last": (
            not args.dataloader_drop_last,
            "=False ends each epoch with a smaller batch, whose loss is another one; leave it out",
        ),
        "remove_unused_columns": (
            args.remove_unused_columns,
            "has no columns to remove: batches are made whole; leave it out",
        ),
    }
    for name, (asked, reason) in why.items():
        if asked:
            raise ClipScratchError(f"{name}{'' if reason.startswith('=') else ' '}{reason}.")


def describe_batch(args, chunk: int | None) -> str:
    """The arithmetic in one line; `chunk` as `choose_chunk` gave it."""
    rows = args.per_device_train_batch_size
    line = f"global batch of {args.global_batch_size:,} pairs = {args.world_size} x {rows:,}"
    if chunk is None:
        return f"{line}, encoded at once"
    return f"{line}, encoded {chunk:,} at a time ({-(-rows // chunk)} chunks, made again for the backward pass)"


def choose_chunk(args, model, example) -> int | None:
    """Rows that a process encodes at once; `None` for all of them.

    Args:
        args: settled by `settle_global_batch`.
        model: unwrapped, on its device.
        example: function of n that makes the model's inputs for n rows of the largest size.
    `auto` measures what the backward pass would keep of one row more, and takes the largest power of two that fits
    the memory budget; it depends on model, shapes and machine only, so a resumed run chooses the same.
    """
    rows, chunk = args.per_device_train_batch_size, args.encode_chunk_size
    if chunk == "auto":
        one, two = (_kept_bytes(model, example(count)) for count in (1, 2))
        fits = int((memory_budget(args, model) - one) / max(_MARGIN * (two - one), 1))
        chunk = rows if fits >= rows else 2 ** max(fits, 1).bit_length() // 2
        if process_count() > 1:  # FSDP gathers weights a chunk: all must have as many
            least = torch.tensor(chunk, device=args.device)
            dist.all_reduce(least, dist.ReduceOp.MIN)
            chunk = int(least)
    return chunk if chunk < rows else None


def _kept_bytes(model, inputs):
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(**inputs, return_logits=False)  # held, so that no storage is counted under a reused address
    total = sum(kept.values())
    del output
    return total


def memory_budget(args, model) -> float:
    """Bytes that a step of one process may take: `memory_budget_gb`, or half of a CPU's memory, most of a GPU's."""
    if args.memory_budget_gb is not None:
        if args.memory_budget_gb <= 0:
            raise ClipScratchError(
                f"memory_budget_gb={args.memory_budget_gb} is not above 0; choose 4, or leave it out."
            )
        return args.memory_budget_gb * 1e9
    if args.device.type == "cuda":
        free = 0.9 * torch.cuda.get_device_properties(args.device).total_memory - torch.cuda.memory_allocated()
    else:
        free = machine_memory() / 2 / local_process_count()
    learned = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return free - 12 * learned  # gradient and AdamW's two moments


def machine_memory() -> int:
    """Bytes of memory that this machine, or the container around us, has."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    written = limit.read_text().strip() if limit.is_file() else "max"
    return total if written == "max" else min(total, int(written))
