"""A model goes in; its trained weights, in groups of one learning rate and one decay each, come out."""


def parameter_groups(model, decaying: list[str], args) -> list[dict]:
    """
    Args:
        model: unwrapped.
        decaying: names of the weights that decay.
        args: `learning_rate` of the heads and the temperature, `tower_learning_rate` of the towers, `weight_decay`.
    Returns: groups as torch's optimizers take them.
    """
    groups = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            in_tower = name.startswith(("text_model.", "vision_model."))
            groups.setdefault((in_tower, name in decaying), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": args.weight_decay if decays else 0.0,
            "lr": args.tower_learning_rate if in_tower else args.learning_rate,
        }
        for (in_tower, decays), parameters in groups.items()
    ]
