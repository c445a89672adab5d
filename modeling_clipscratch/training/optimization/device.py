"""Choose the arithmetic and the attention kernel of a run by what its device can do, and define `eager_bf16`."""

import logging

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from ...utils.errors import ClipScratchError

logger = logging.getLogger(__name__)

ATTENTIONS = ("auto", "eager", "eager_bf16", "sdpa")


def attend(module, query, key, value, attention_mask=None, scaling=None, dropout=0.0, **kwargs):
    """Compute transformers' eager attention without copying the weights to float32 and back (`eager_bf16`).

    Softmax sums in float32 and rounds once, as the copy would be rounded. On a CPU those copies take an eighth of a
    ViT-B/16's training step.
    """
    batch, heads, _, width = query.shape
    key, value = (repeat_kv(each, heads // each.shape[1]) for each in (key, value))
    query = query * (width**-0.5 if scaling is None else scaling)
    # Heads as one dimension of contiguous matrices: matmul would copy the keys transposed before it multiplies.
    scores = torch.bmm(query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2)).unflatten(0, (batch, heads))
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1).to(value.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    mixed = torch.bmm(weights.flatten(0, 1), value.flatten(0, 1)).unflatten(0, (batch, heads))
    return mixed.transpose(1, 2).contiguous(), weights


AttentionInterface.register("eager_bf16", attend)
AttentionMaskInterface.register("eager_bf16", eager_mask)


def choose_attention(attention: str, *, precision: str, use_cpu: bool) -> str:
    """Resolve `auto` to one of `ATTENTIONS`; leave the others as they are.

    On CPUs in bf16, eager was 1.7 to 2.3 times as fast as sdpa, and eager_bf16 1.0 to 1.16 times as fast as eager.
    """
    best = "eager_bf16" if use_cpu and precision == "bf16" else "sdpa"
    return best if attention == "auto" else attention


def set_attention(tower: PreTrainedModel, attention: str) -> None:
    """Set a tower's attention kernel; a tower that does not support it gets `eager`."""
    supported = {"eager_bf16": tower._supports_attention_backend, "sdpa": tower._supports_sdpa}
    if not supported.get(attention, True):
        logger.info("a %s tower has no %s attention; it is trained with eager.", tower.config.model_type, attention)
        attention = "eager"
    tower.set_attn_implementation(attention)


def no_accelerator() -> bool:
    return not torch.accelerator.is_available()


def choose_precision(*, use_cpu: bool) -> str:
    """Return which of `fp32`, `bf16` and `fp16` the device is fast at."""
    if use_cpu:  # measured: a ViT's step takes a third of its fp32 time with these instructions, 20 times it without
        features = torch.cpu.get_capabilities()
        return "bf16" if features.get("amx_bf16", False) or features.get("avx512_bf16", False) else "fp32"
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "fp32"


def check_processes(args) -> None:
    """Raise `ClipScratchError` if a process has several GPUs."""
    if args.n_gpu > 1:
        raise ClipScratchError(
            f"one process sees {args.n_gpu} GPUs and would copy the model to each at every step; start one process a "
            "GPU with accelerate launch, or name one GPU in CUDA_VISIBLE_DEVICES."
        )
