"""The file of weights that the tutorial's `train.py` keeps goes in; a ClipScratch model and its processor come out."""

import math
from pathlib import Path

import torch

from ..evaluation.safe_loading import explaining_load_errors
from ..hub.configuration_clipscratch import MAX_LOGIT_SCALE
from ..hub.errors_clipscratch import ClipScratchError
from ..hub.modeling_clipscratch import ClipScratchModel
from ..hub.towers_clipscratch import load_tower_config, takes_pooler, tower_class

SIDES = {"text": "text_encoder", "vision": "image_encoder"}  # ours -> the tutorial's
HEAD = {"projection.weight": "0.weight", "projection.bias": "0.bias"}
NORM = {"layer_norm.weight": "1.weight", "layer_norm.bias": "1.bias"}
TEMPERATURE = "loss_fn.temperature"  # a parameter on the CPU only; moved to another device it is not in the file
FIRST_TEMPERATURE = math.log(1 / 7)


def read_tutorial(path: str | Path, text_model: str, vision_model: str):
    """The model of "Building CLIP from scratch in PyTorch", features to the bit.

    Its loss multiplies features that are not of unit length. Behind a LayerNorm they are about sqrt(P) long, so P
    times the cosine is what it learned with: ln P is added to its temperature, which leaves every ranking as it was.

    Args:
        path: `clip.pt`, a state dict.
        text_model: folder or Hub id whose config and tokenizer the text tower has.
        vision_model: the same for the vision tower, config and image processor.
    Returns: (model in `eval()`, processor).
    Raises: ClipScratchError if the file is none of the tutorial's, or does not fit the two configs.
    """
    weights = _state_dict(path)
    width = len(weights["text_encoder.layer_norm.bias"])
    scale = float(weights.get(TEMPERATURE, FIRST_TEMPERATURE)) + math.log(width)
    with explaining_load_errors(text_model, vision_model):
        model, processor = ClipScratchModel.from_towers(
            _tower(weights, "text", load_tower_config(text_model, "text"), path),
            _tower(weights, "vision", load_tower_config(vision_model, "vision"), path),
            tokenizer=text_model,
            image_processor=vision_model,
            projection_dim=width,
            projection="linear+norm",
            loss="diagonal",
            freeze_vision=True,  # its towers ran without gradients, both
            logit_scale_init_value=scale,
            logit_scale_max=max(MAX_LOGIT_SCALE, scale),
        )
    for side, head in (("text", model.text_projection), ("vision", model.visual_projection)):
        head.load_state_dict({ours: weights[f"{SIDES[side]}.{name}"] for name, ours in {**HEAD, **NORM}.items()})
    return model.eval(), processor


def _state_dict(path):
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no pickle raise anything
        raise ClipScratchError(
            f"{path} is no file of weights that can be read without running code from it; save the model's "
            "state_dict() with torch.save, and nothing else."
        ) from error
    wanted = [f"{encoder}.{name}" for encoder in SIDES.values() for name in {**HEAD, **NORM}]
    names = list(found) if isinstance(found, dict) else [f"a {type(found).__name__}"]
    missing = [name for name in wanted if name not in names]
    towers = all(any(str(name).startswith(f"{encoder}.model.") for name in names) for encoder in SIDES.values())
    if missing or not towers:
        shown = ", ".join(sorted({".".join(str(name).split(".")[:2]) for name in names})[:8])
        raise ClipScratchError(
            f"{path} is not of the tutorial's model: it holds {shown}; expected are text_encoder and "
            "image_encoder, each with model, projection and layer_norm."
        )
    return found


def _tower(weights, side, config, path):
    prefix = f"{SIDES[side]}.model."
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    made = tower_class(config)
    extra = {"add_pooling_layer": False} if side == "vision" and takes_pooler(made) else {}
    settings = {"config": config, "state_dict": own, "output_loading_info": True, "ignore_mismatched_sizes": True}
    tower, info = made.from_pretrained(None, **settings, **extra)  # knows a ViT's older names, too
    wrong = sorted(info["missing_keys"]) + sorted(name for name, *_ in info["mismatched_keys"])
    if wrong:
        raise ClipScratchError(
            f"{path}: the {side} tower does not fit the config of --{side}_model, a {config.model_type} ({len(wrong)} "
            f"weights missing or of another shape, {wrong[0]} for one); name the model that it was made from."
        )
    return tower
