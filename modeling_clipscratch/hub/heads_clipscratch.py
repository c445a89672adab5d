"""Pooled states of a tower go in; features of the shared space, and their unit length, come out."""

from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .losses_clipscratch import full_precision


def build_projection(width, config):
    """The head that takes states `width` wide to `config.projection_dim`: see `ClipScratchConfig.projection`."""
    if config.projection == "linear":
        return nn.Linear(width, config.projection_dim, bias=False)
    hidden = nn.Linear(width, config.projection_dim)
    if config.projection == "linear+norm":
        return nn.Sequential(hidden, nn.LayerNorm(config.projection_dim))
    return nn.Sequential(hidden, nn.GELU(), nn.Linear(config.projection_dim, config.projection_dim))


def unit_length(features):
    """(B, P) -> (B, P) of unit length, in float32 under any autocast."""
    return nn.functional.normalize(full_precision(features), dim=-1)


def with_features(output, features):
    """A tower's output with (B, P) `features` as its `pooler_output`; `None` where the tower's own is not at hand."""
    # Not written into the output itself: DistilBERT's class has no such field, and DDP makes outputs anew by theirs.
    output = {} if output is None else output
    kept = {name: output.get(name) for name in ("last_hidden_state", "hidden_states", "attentions")}
    return BaseModelOutputWithPooling(pooler_output=features, **kept)


def given(**options):
    """The options that are not `None`."""
    return {name: value for name, value in options.items() if value is not None}
