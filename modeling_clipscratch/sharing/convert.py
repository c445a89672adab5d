"""A two-tower model of another kind goes in; a ClipScratch folder with its features and processor comes out."""

import logging
from pathlib import Path

import torch
from torch import nn
from transformers import ProcessorMixin

from ..evaluation.load_model import load_model
from ..hub.configuration_clipscratch import MAX_LOGIT_SCALE
from ..hub.errors_clipscratch import ClipScratchError
from ..hub.modeling_clipscratch import ClipScratchModel
from ..utils.atomic_files import check_new_folder, write_new_folder
from .convert_tutorial import read_tutorial

logger = logging.getLogger(__name__)
TYPES = ("clip", "vision-text-dual-encoder")


def convert(source: str, output: str | Path, *, text_model: str, vision_model: str) -> Path:
    """Writes a ClipScratch folder that gives the features of another model.

    They are the same to the bit where its weights are float32; float16 and bfloat16 ones become float32, which rounds
    less.

    Args:
        source: folder or Hub id of a `CLIPModel` or a `VisionTextDualEncoderModel`, or a file of weights (`clip.pt`) of
            the tutorial "Building CLIP from scratch in PyTorch".
        output: the new folder; it must not be there, or be empty.
        text_model: for a file of weights, which has neither: whose config and tokenizer the text tower has.
        vision_model: the same for the vision tower: config and image processor.
    Returns: the folder.
    Raises: ClipScratchError if the source cannot be read, is of another kind, or there is something at `output`
        already.

    >>> convert("clip.pt", "photos", text_model="distilbert", vision_model="vit")
    Traceback (most recent call last):
        ...
    ClipScratchError: output=photos is there already; delete it, or choose another name.
    """
    check_new_folder("output", output)
    if Path(source).is_file():
        model, processor = read_tutorial(source, text_model, vision_model)
    else:
        model, processor = from_two_towers(*load_model(source, "cpu"), source)
    write_new_folder(output, lambda folder: (model.save_pretrained(folder), processor.save_pretrained(folder)))
    logger.info("%s: text tower %s, vision tower %s", source, *_kinds(model))
    return Path(output)


def from_two_towers(theirs: nn.Module, processor: ProcessorMixin, source: str):
    """The ClipScratch model with the towers, projections and temperature of a `CLIPModel` or of one like it.

    Both towers pool by themselves, project by one matrix, and learned with the loss of the diagonal.

    Returns: (model in `eval()`, processor).
    Raises: ClipScratchError if it is of another type.
    """
    kind = theirs.config.model_type
    if kind not in TYPES:
        # SigLIP too: it reads texts padded to 64 tokens only, which no processor of a folder can be made to keep.
        raise ClipScratchError(f"{source} is a model of type {kind!r}; what can be converted is {', '.join(TYPES)}.")
    scale = theirs.logit_scale.item()
    model, processor = ClipScratchModel.from_towers(
        text=theirs.text_model,
        vision=theirs.vision_model,
        tokenizer=processor.tokenizer,
        image_processor=processor.image_processor,
        text_pooling="tower",
        vision_pooling="tower",
        projection_dim=theirs.config.projection_dim,
        loss="diagonal",
        freeze_text=False,
        logit_scale_init_value=scale,
        logit_scale_max=max(MAX_LOGIT_SCALE, scale),
    )
    model.text_projection.load_state_dict(theirs.text_projection.state_dict())
    model.visual_projection.load_state_dict(theirs.visual_projection.state_dict())
    with torch.no_grad():
        model.logit_scale.fill_(theirs.logit_scale)
    return model.eval(), processor


def _kinds(model):
    return model.config.text_config.model_type, model.config.vision_config.model_type
