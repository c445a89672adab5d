"""Split the global batch among processes and chunks, of which a process encodes one at once; no loss depends on it."""

from pathlib import Path

import psutil
import torch

from ...utils.errors import ClipScratchError
from .gather import local_process_count

DEFAULT_BATCH = 256
_MARGIN = 1.5  # a step needs more than the activations kept for the backward pass: gradients, a layer's temporaries


def settle_global_batch(args) -> None:
    """Set the rows of a process and its chunk from `global_batch_size` and the Trainer's own two fields.

    Accumulation makes a true larger contrastive batch, in chunks of `per_device_train_batch_size`. Afterwards that
    field holds all rows of a process and `gradient_accumulation_steps` is 1.
    """
    processes, accumulated = args.world_size, args.gradient_accumulation_steps
    at_once, chunk = args.per_device_train_batch_size, args.encode_chunk_size
    if chunk != "auto" and not (str(chunk).isdigit() and int(chunk)):
        raise ClipScratchError(f"encode_chunk_size={chunk!r} is neither auto nor a number of pairs, such as 64.")
    batch = args.global_batch_size
    if batch is None:
        batch = DEFAULT_BATCH if at_once is None else at_once * accumulated * processes
    if batch < 2:
        raise ClipScratchError(
            f"global_batch_size={batch} leaves a contrastive loss nothing to compare; choose 2 or more (by default it "
            "is per_device_train_batch_size x gradient_accumulation_steps x processes)."
        )
    if batch % processes:
        fits = max(batch // processes, 1) * processes
        raise ClipScratchError(
            f"global_batch_size={batch} cannot be split equally among {processes} processes; choose {fits} or "
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
    if chunk == "auto" and at_once < rows:
        chunk = at_once
    args.global_batch_size, args.per_device_train_batch_size = batch, rows
    args.gradient_accumulation_steps, args.encode_chunk_size = 1, chunk if chunk == "auto" else int(chunk)


def enable_checkpointing(model, options: dict | None) -> None:
    """Enable activation checkpointing as the Trainer does, but before a step's memory is measured."""
    options = dict(options or {})
    own = {name: options.pop(name) for name in ("every_n_layers", "offload") if name in options}
    # Its name in older versions of transformers is without options of its own.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable(options or None, **own)


def choose_chunk(args, model, example) -> int | None:
    """Choose how many rows a process encodes at once; `None` for all.

    `auto` measures what the backward pass would keep of one row more, and takes the largest power of two that fits
    the memory budget. `example(n)` makes the model's inputs for n rows of the largest size.
    """
    rows, chunk = args.per_device_train_batch_size, args.encode_chunk_size
    if chunk == "auto":
        one, two = (_kept_bytes(model, example(count)) for count in (1, 2))
        fits = int((memory_budget(args, model) - one) / max(_MARGIN * (two - one), 1))
        chunk = rows if fits >= rows else 2 ** max(fits, 1).bit_length() // 2
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
    del output
    return sum(kept.values())


def memory_budget(args, model) -> float:
    """Return the bytes that a step of one process may take."""
    if args.memory_budget_gb is not None:
        return args.memory_budget_gb * 1e9
    if args.device.type == "cuda":
        free = 0.9 * torch.cuda.get_device_properties(args.device).total_memory - torch.cuda.memory_allocated()
    else:
        limit = Path("/sys/fs/cgroup/memory.max")  # of the container, if there is one
        written = limit.read_text().strip() if limit.is_file() else "max"
        total = psutil.virtual_memory().total
        free = (total if written == "max" else min(total, int(written))) / 2 / local_process_count()
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return free - 12 * trained  # gradient and AdamW's two moments, float32
