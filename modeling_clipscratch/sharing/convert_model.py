"""Convert a two-tower model of another format to a ClipScratch folder with the same features."""

import logging
import math
from pathlib import Path

import torch

from ..evaluation.load_model import load_model
from ..evaluation.safe_loading import explaining_load_errors
from ..hub.configuration_clipscratch import MAX_LOGIT_SCALE
from ..hub.modeling_clipscratch import ClipScratchModel
from ..hub.towers_clipscratch import load_tower_config, takes_pooler, tower_class
from ..utils.atomic_files import check_new_folder, write_whole
from ..utils.errors import ClipScratchError

logger = logging.getLogger(__name__)

TYPES = ("clip", "vision-text-dual-encoder")
_ENCODERS = {"text": "text_encoder", "vision": "image_encoder"}  # our side: the tutorial's name
_HEAD = {  # our name: the tutorial's
    "0.weight": "projection.weight",
    "0.bias": "projection.bias",
    "1.weight": "layer_norm.weight",
    "1.bias": "layer_norm.bias",
}


def convert(
    source: str,
    output: str | Path,
    *,
    text_model: str = "distilbert-base-uncased",
    vision_model: str = "google/vit-base-patch16-224",
) -> Path:
    """Write a ClipScratch folder that gives the features of another model.

    They are the same to the bit if its weights are float32. Float16 and bfloat16 become float32, which rounds less.

    Args:
        source: Folder or Hub id of a `CLIPModel` or a `VisionTextDualEncoderModel`; or the file of weights (`clip.pt`)
            of the tutorial "Building CLIP from scratch in PyTorch".
        output: A new or empty folder.
        text_model: For a file of weights: folder or Hub id of the text tower's config and tokenizer.
        vision_model: For a file of weights: folder or Hub id of the vision tower's config and image processor.

    Returns:
        The folder.

    Raises:
        ClipScratchError: If the source cannot be read or is of another type, or something is at `output`.

    >>> convert("openai/clip-vit-base-patch32", "runs/clip")  # doctest: +SKIP
    PosixPath('runs/clip')
    """
    check_new_folder("output", output)
    if Path(source).is_file():
        model, processor = _from_tutorial(source, text_model, vision_model)
    else:
        model, processor = _from_two_towers(source)
    write_whole(output, lambda new: (model.save_pretrained(new), processor.save_pretrained(new)), folder=True)
    kinds = model.config.text_config.model_type, model.config.vision_config.model_type
    logger.info("%s: text tower %s, vision tower %s", source, *kinds)
    return Path(output)


def _from_two_towers(source):
    """Both types pool in the tower, project with one matrix and were trained with the diagonal loss."""
    original, processor = load_model(source, "cpu")
    if original.config.model_type not in TYPES:
        # SigLIP neither: it reads texts that are padded to 64 tokens, which the processor of a folder cannot keep.
        raise ClipScratchError(
            f"{source} is a model of type {original.config.model_type!r}; convert takes {', '.join(TYPES)}."
        )
    scale = original.logit_scale.item()
    model, processor = ClipScratchModel.from_towers(
        text=original.text_model,
        vision=original.vision_model,
        tokenizer=processor.tokenizer,
        image_processor=processor.image_processor,
        text_pooling="tower",
        vision_pooling="tower",
        projection_dim=original.config.projection_dim,
        loss="diagonal",
        freeze_text=False,
        logit_scale_init_value=scale,
        logit_scale_max=max(MAX_LOGIT_SCALE, scale),
    )
    model.text_projection.load_state_dict(original.text_projection.state_dict())
    model.visual_projection.load_state_dict(original.visual_projection.state_dict())
    with torch.no_grad():
        model.logit_scale.fill_(original.logit_scale)
    return model, processor


def _from_tutorial(path, text_model, vision_model):
    """The tutorial multiplies features that are not of unit length. After a LayerNorm their length is about sqrt(P), so
    its logits are P times the cosine: ln P is added to its temperature. No ranking changes."""
    weights = _read_state_dict(path)
    width = len(weights["text_encoder.layer_norm.bias"])
    # A parameter on the CPU; one that was moved to another device is missing in the file.
    scale = float(weights.get("loss_fn.temperature", math.log(1 / 7))) + math.log(width)
    with explaining_load_errors(text_model, vision_model):
        model, processor = ClipScratchModel.from_towers(
            _read_tower(weights, "text", load_tower_config(text_model, "text"), path),
            _read_tower(weights, "vision", load_tower_config(vision_model, "vision"), path),
            tokenizer=text_model,
            image_processor=vision_model,
            projection_dim=width,
            projection="linear+norm",
            loss="diagonal",
            freeze_vision=True,  # both towers of the tutorial are frozen
            logit_scale_init_value=scale,
            logit_scale_max=max(MAX_LOGIT_SCALE, scale),
        )
    for side, head in (("text", model.text_projection), ("vision", model.visual_projection)):
        head.load_state_dict({ours: weights[f"{_ENCODERS[side]}.{name}"] for ours, name in _HEAD.items()})
    return model, processor


def _read_state_dict(path):
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are not a pickle raise anything
        raise ClipScratchError(
            f"{path} is not a file of weights that can be read without running code; save the model's state_dict() "
            "with torch.save, and nothing else."
        ) from error
    heads = [f"{encoder}.{name}" for encoder in _ENCODERS.values() for name in _HEAD.values()]
    if missing := [name for name in heads if name not in weights]:
        raise ClipScratchError(
            f"{path} does not hold the tutorial's model ({missing[0]} is missing); expected are text_encoder and "
            "image_encoder, each with model, projection and layer_norm."
        )
    return weights


def _read_tower(weights, side, config, path):
    prefix = f"{_ENCODERS[side]}.model."
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    cls = tower_class(config)
    extra = {"add_pooling_layer": False} if side == "vision" and takes_pooler(cls) else {}
    settings = {"config": config, "state_dict": own, "output_loading_info": True, "ignore_mismatched_sizes": True}
    tower, info = cls.from_pretrained(None, **settings, **extra)  # also reads a ViT's names before transformers 5
    wrong = sorted(info["missing_keys"]) + sorted(name for name, *_ in info["mismatched_keys"])
    if wrong:
        raise ClipScratchError(
            f"{path}: the {side} tower does not fit the config of --{side}_model, a {config.model_type} ({len(wrong)} "
            f"weights are missing or of another shape, such as {wrong[0]}); give the model that it was made from."
        )
    return tower
