"""Choose the arithmetic of a run by what its device can do, and check how its processes were launched."""

import os

import torch
from accelerate.utils import DistributedType

from ...utils.errors import ClipScratchError
from ..towers.attention import choose_attention


def no_accelerator() -> bool:
    return not torch.accelerator.is_available()


def choose_precision(precision: str, *, use_cpu: bool) -> str:
    """Resolve `auto` to `fp32`, `bf16` or `fp16`; leave the others as they are.

    CPUs: bf16 with AVX-512 bf16 or AMX (measured: 3 times a ViT's fp32 step), fp32 without (bf16 is emulated there,
    20 times slower). CUDA: bf16 from Ampere on, else fp16. Apple: fp32.
    """
    return _best_precision(use_cpu)[0] if precision == "auto" else precision


def settle_precision(args) -> None:
    """Choose `bf16` or `fp16` of the arguments by the device where neither is set."""
    if args.bf16 is None and args.fp16 is None:
        best = choose_precision("auto", use_cpu=args.use_cpu)
        args.bf16, args.fp16 = best == "bf16", best == "fp16"
    args.bf16, args.fp16 = bool(args.bf16), bool(args.fp16)


def describe_device(args) -> str:
    processes = f"{args.world_size} processes on " if args.world_size > 1 else ""
    best, why = _best_precision(args.use_cpu)
    reason = why if best == args.precision else "as set"
    attention = choose_attention(args.attention, precision=args.precision, use_cpu=args.use_cpu)
    return f"{processes}{args.device.type}, {args.precision} ({reason}), {attention} attention"


def check_processes(args) -> None:
    """Raise `ClipScratchError` if processes have no connection or several GPUs, or accelerate would leave FSDP out."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != args.world_size:
        raise ClipScratchError(
            f"the launcher started {launched} processes but this one counts {args.world_size}; they would not share "
            "their batch and would overwrite each other's files: launch with a file of configuration/accelerate/."
        )
    wants_fsdp = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if wants_fsdp and args.distributed_state.distributed_type == DistributedType.MULTI_CPU:
        raise ClipScratchError(
            "FSDP is set, but accelerate shards no model on CPUs and would silently run DDP; launch with "
            "configuration/accelerate/cpu_2.yaml."
        )
    if args.n_gpu > 1:
        raise ClipScratchError(
            f"one process sees {args.n_gpu} GPUs and would copy the model to each at every step; start one process a "
            "GPU with accelerate launch, or name one GPU in CUDA_VISIBLE_DEVICES."
        )


def _best_precision(use_cpu):
    if use_cpu:
        features = torch.cpu.get_capabilities()
        if features.get("amx_bf16", False) or features.get("avx512_bf16", False):
            return "bf16", "this CPU has instructions for it"
        return "fp32", "this CPU has no instructions for bf16"
    if torch.cuda.is_available():
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "this GPU has units for it"
        return "fp16", "this GPU has no units for bf16"
    return "fp32", "the safe choice on this device"
