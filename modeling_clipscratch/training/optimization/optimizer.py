"""Group the trained weights by learning rate and decay, and build their optimizer."""

import torch

from ...hub.towers_clipscratch import last_blocks
from ...utils.errors import ClipScratchError
from ..recipe.arguments import ModelArguments, is_from_scratch
from .muon import MuonAdamW


def muon_matrices(model, options: ModelArguments, rate: float | None) -> set[str]:
    """Name the weights that Muon trains at `rate`: matrices in the blocks of towers from scratch.

    Its steps are equally long in every direction, so they would overwrite a pretrained tower in a few steps.
    """
    if rate is None:
        return set()
    sides = [side for side in ("text", "vision") if is_from_scratch(getattr(options, f"{side}_tower"))]
    towers = [getattr(model, f"{side}_model") for side in sides if not getattr(options, f"freeze_{side}")]
    if not towers:
        raise ClipScratchError(
            f"muon_learning_rate={rate} is for a tower from scratch, and none is trained; leave it out, or name a "
            "model type (vision_tower=vit)."
        )
    blocks = [block for tower in towers for block in last_blocks(tower, tower.config.num_hidden_layers)]
    inside = {id(weight) for block in blocks for weight in block.parameters() if weight.dim() == 2}
    return {name for name, weight in model.named_parameters() if id(weight) in inside}


def parameter_groups(model, decaying: list[str], args, matrices: set[str]) -> list[dict]:
    """Group the trained weights; the names of those that decay, and of those that Muon trains, are given."""
    rates = {"heads": args.learning_rate, "tower": args.tower_learning_rate, "muon": args.muon_learning_rate}
    groups = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            in_tower = name.startswith(("text_model.", "vision_model."))
            part = "muon" if name in matrices else "tower" if in_tower else "heads"
            groups.setdefault((part, name in decaying), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": args.weight_decay if decays else 0.0,
            "lr": rates[part] or args.learning_rate,
            **({"muon": True} if part == "muon" else {}),
        }
        for (part, decays), parameters in groups.items()
    ]


def build_optimizer(groups: list[dict], kind: type, settings: dict, args) -> torch.optim.Optimizer:
    """Return the optimizer of the groups: Muon with AdamW if `muon_learning_rate` is set, else one of `kind`."""
    if args.muon_learning_rate is None:
        return kind(groups, **settings)
    return MuonAdamW(groups, dtype=torch.bfloat16 if args.bf16 else torch.float32, **settings)
