"""A wish and the machine go in; the attention kernel that a tower is trained with comes out, one of them made here."""

import logging

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.masking_utils import AttentionMaskInterface, eager_mask

logger = logging.getLogger(__name__)

ATTENTIONS = ("auto", "eager", "eager_bf16", "sdpa")


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`eager_bf16`: transformers' eager attention, whose weights are never copied to float32 and back.

    Softmax sums in float32 and rounds once, as the copy would be rounded. On a CPU those copies, there and back, are an
    eighth of a ViT-B/16's training step. A mask that is float32 brings the float32 softmax with it.

    Args:
        module: whose `training` decides on dropout.
        query: (B, H, T, D).
        key, value: (B, H', S, D); each of the H' heads serves H / H' queries' heads.
        attention_mask: added to the scores; (B, 1 or H, T, S).
        scaling: of the scores; D ** -0.5 where it is not given.
        dropout: share of the weights that is dropped in training.
    Returns: (B, T, H, D) and the weights (B, H, T, S).
    """
    batch, heads, _, width = query.shape
    key, value = (repeat_kv(each, heads // each.shape[1]) for each in (key, value))
    query = query * (width**-0.5 if scaling is None else scaling)
    # Heads as one dimension of contiguous matrices: matmul would turn the keys round before it multiplies.
    scores = torch.bmm(query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2)).unflatten(0, (batch, heads))
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1).to(value.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    mixed = torch.bmm(weights.flatten(0, 1), value.flatten(0, 1)).unflatten(0, (batch, heads))
    return mixed.transpose(1, 2).contiguous(), weights


AttentionInterface.register("eager_bf16", attend)
AttentionMaskInterface.register("eager_bf16", eager_mask)


def choose_attention(wanted: str, *, precision: str, use_cpu: bool) -> str:
    """One of `ATTENTIONS` -> the one to use, never `auto`.

    On CPUs in bf16 eager was 1.7 to 2.3 times as fast as sdpa, and eager_bf16 1.0 (few tokens and heads) to 1.16
    times (ViT-B/16) as fast as eager.
    """
    if wanted != "auto":
        return wanted
    return "eager_bf16" if use_cpu and precision == "bf16" else "sdpa"


def set_attention(tower: PreTrainedModel, attention: str) -> None:
    """Gives a tower the kernel; one that takes none but its own kinds has eager in its place."""
    known = {"eager_bf16": tower._supports_attention_backend, "sdpa": tower._supports_sdpa}
    if not known.get(attention, True):
        logger.info("a %s tower has no %s attention; it is trained with eager.", tower.config.model_type, attention)
        attention = "eager"
    tower.set_attn_implementation(attention)
