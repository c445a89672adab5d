"""A model goes in; its trained weights, in groups of one learning rate and one decay each, come out."""

import torch

from ..hub.towers_clipscratch import last_blocks
from .muon import MuonAdamW


def hidden_matrices(model, sides: list[str]) -> set[str]:
    """Names of the matrices that Muon is for: those of the blocks, not embeddings, not heads.

    Args:
        model: unwrapped.
        sides: `text`, `vision`: towers to look at.
    """
    towers = [getattr(model, f"{side}_model") for side in sides]
    inside = {
        id(weight)
        for tower in towers
        for block in last_blocks(tower, tower.config.num_hidden_layers)
        for weight in block.parameters()
        if weight.dim() == 2
    }
    return {name for name, weight in model.named_parameters() if id(weight) in inside}


def parameter_groups(model, decaying: list[str], args, matrices: set[str]) -> list[dict]:
    """
    Args:
        model: unwrapped.
        decaying: names of the weights that decay.
        args: `learning_rate` of the heads and the temperature, `tower_learning_rate` of the towers,
            `muon_learning_rate` of their matrices, `weight_decay`.
        matrices: names of the weights that Muon trains.
    Returns: groups as `MuonAdamW`, and without matrices all of torch's optimizers, take them.
    """
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
    """
    Args:
        groups: from `parameter_groups`.
        kind, settings: optimizer class and its arguments, as the Trainer finds them from `args.optim`.
    Raises: ValueError if Muon is wanted beside another optimizer than AdamW.
    """
    if args.muon_learning_rate is None:
        return kind(groups, **settings)
    if kind is not torch.optim.AdamW:
        raise ValueError(
            f"optim={args.optim.value} with muon_learning_rate={args.muon_learning_rate}: AdamW trains what Muon "
            "leaves; leave optim out, or muon_learning_rate."
        )
    return MuonAdamW(groups, dtype=torch.bfloat16 if args.bf16 else torch.float32, **settings)
