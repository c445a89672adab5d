"""Evaluate and save a model that DDP or FSDP wraps."""

import contextlib

import torch
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method

from ...utils.errors import ClipScratchError


def check_sharding(trainer) -> None:
    """Raise `ClipScratchError` for a way of sharding whose weights would not be saved whole."""
    plugin = trainer.accelerator.state.fsdp_plugin if trainer.is_fsdp_enabled else None
    whole = plugin is None or (plugin.fsdp_version == 2 and "FULL_STATE_DICT" in str(plugin.state_dict_type))
    if trainer.is_deepspeed_enabled or not whole:
        raise ClipScratchError(
            "weights are sharded by FSDP version 2 with fsdp_state_dict_type FULL_STATE_DICT only; launch with a file "
            "like configuration/accelerate/gpu_8_fsdp.yaml."
        )


def open_methods(model) -> None:
    """Make FSDP gather the weights also where evaluation calls a method other than `forward`."""
    for name in ("get_image_features", "get_text_features"):
        if isinstance(model, FSDPModule) and name not in vars(model):  # registered twice, it would gather twice
            register_fsdp_forward_method(model, name)


@contextlib.contextmanager
def own_class(model):
    """Give the model its own class while it is saved: `save_pretrained` would copy the code of FSDP's class."""
    sharded = type(model)
    if isinstance(model, FSDPModule):
        model.__class__ = next(base for base in sharded.__mro__ if not issubclass(base, FSDPModule))
    try:
        yield model
    finally:
        model.__class__ = sharded


def whole_state_dict(accelerator, model) -> dict[str, torch.Tensor] | None:
    """Gather all weights from the processes, which must all call this; `None` where each process has them."""
    return accelerator.get_state_dict(model) if isinstance(accelerator.unwrap_model(model), FSDPModule) else None
