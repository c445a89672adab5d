"""Choose the arithmetic of a run by what its device can do, and check how it was launched."""

import torch

from ...utils.errors import ClipScratchError
from ..towers.attention import choose_attention


def no_accelerator() -> bool:
    """Return whether a run can only use CPUs."""
    return not torch.accelerator.is_available()


def choose_precision(*, use_cpu: bool) -> str:
    """Return which of `fp32`, `bf16` and `fp16` the device is fast at."""
    if use_cpu:  # measured: a ViT's step takes a third of its fp32 time with these instructions, 20 times it without
        features = torch.cpu.get_capabilities()
        return "bf16" if features.get("amx_bf16", False) or features.get("avx512_bf16", False) else "fp32"
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "fp32"


def describe_device(args) -> str:
    """Return what a run computes on, for the log."""
    processes = f"{args.world_size} processes on " if args.world_size > 1 else ""
    attention = choose_attention(args.attention, precision=args.precision, use_cpu=args.use_cpu)
    return f"{processes}{args.device.type}, {args.precision}, {attention} attention"


def check_processes(args) -> None:
    """Raise `ClipScratchError` if a process has several GPUs."""
    if args.n_gpu > 1:
        raise ClipScratchError(
            f"one process sees {args.n_gpu} GPUs and would copy the model to each at every step; start one process a "
            "GPU with accelerate launch, or name one GPU in CUDA_VISIBLE_DEVICES."
        )
