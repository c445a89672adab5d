"""The machine is asked; the arithmetic that it profits from comes out, with the reason."""

import os

import torch
from accelerate.utils import DistributedType

from ...hub.errors_clipscratch import ClipScratchError
from ..towers.attention import choose_attention

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def no_accelerator() -> bool:
    """True where torch finds neither CUDA, MPS nor XPU."""
    return not torch.accelerator.is_available()


def choose_precision(wanted: str, *, use_cpu: bool) -> str:
    """`auto`, `fp32`, `bf16` or `fp16` -> the one to use.

    CPUs: bf16 with AVX-512 bf16 or AMX (measured: 3 times a ViT's fp32 step), fp32 without (bf16 is emulated there,
    20 times slower). CUDA: bf16 from Ampere on, else fp16. Apple: fp32.
    """
    return _precision(use_cpu)[0] if wanted == "auto" else wanted


def settle_precision(args) -> None:
    """Makes `precision`, `bf16` and `fp16` one; a flag that is `None` says nothing.

    Args: args: `ClipScratchTrainingArguments`, whose `use_cpu` is settled.
    Raises: ClipScratchError for a flag that contradicts the others.
    """
    flags = {"bf16": args.bf16, "fp16": args.fp16}
    if args.precision == "auto":
        chosen = choose_precision("auto", use_cpu=args.use_cpu)
        refused = "fp32" if flags.get(chosen) is False else chosen
        args.precision = next((name for name, flag in flags.items() if flag), refused)
    for name, flag in flags.items():
        if flag is not None and flag != (name == args.precision):
            raise ClipScratchError(f"{name}={flag} contradicts precision={args.precision}; leave one out.")
        setattr(args, name, name == args.precision)


def describe_device(args) -> str:
    """One sentence: device, processes, arithmetic and why."""
    processes = f"{args.world_size} processes on " if args.world_size > 1 else ""
    why = _precision(args.use_cpu)
    reason = f" ({why[1]})" if why[0] == args.precision else " (as asked)"
    attention = choose_attention(args.attention, precision=args.precision, use_cpu=args.use_cpu)
    return f"{processes}{args.device.type}, {args.precision}{reason}, {attention} attention"


def check_processes(args) -> None:
    """Raises: ClipScratchError if more processes were started than know of each other, one process has many GPUs, or
    FSDP would be left out in silence."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != args.world_size:
        raise ClipScratchError(
            f"the launcher started {launched} processes but this one counts {args.world_size}; they would not share "
            "their batch and would write over each other: launch with a file of configuration/accelerate/."
        )
    wants_fsdp = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if wants_fsdp and args.distributed_state.distributed_type == DistributedType.MULTI_CPU:
        raise ClipScratchError(
            "FSDP was asked for, but accelerate shards no model on CPUs and would run DDP in silence; launch with "
            "configuration/accelerate/cpu_2.yaml."
        )
    if args.n_gpu > 1:
        raise ClipScratchError(
            f"one process sees {args.n_gpu} GPUs and would copy the model to each at every step; start one process a "
            "GPU with accelerate launch, or name one GPU in CUDA_VISIBLE_DEVICES."
        )


def _precision(use_cpu):
    if use_cpu:
        able = torch.cpu.get_capabilities()
        fast = able.get("amx_bf16", False) or able.get("avx512_bf16", False)
        return (
            ("bf16", "this CPU has instructions for it") if fast else ("fp32", "this CPU has no instructions for bf16")
        )
    if torch.cuda.is_available():
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "this GPU has units for it"
        return "fp16", "this GPU has no units for bf16"
    return "fp32", "the safe choice on this device"
