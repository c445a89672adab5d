"""Convert a two-tower model of another format to a ClipScratch folder with the same features."""

from pathlib import Path

import torch

from ..evaluation.load_model import load_model
from ..hub.configuration_clipscratch import MAX_LOGIT_SCALE
from ..hub.modeling_clipscratch import ClipScratchModel
from ..utils.atomic_files import check_new_folder, write_whole
from ..utils.errors import ClipScratchError

TYPES = ("clip", "vision-text-dual-encoder")


def convert(source: str, output: str | Path) -> Path:
    """Write a ClipScratch folder that gives the features of another model.

    They are the same to the bit if its weights are float32. Float16 and bfloat16 become float32, which rounds less.

    Args:
        source: Folder or Hub id of a `CLIPModel` or a `VisionTextDualEncoderModel`.
        output: A new or empty folder.

    Returns:
        The folder.

    Raises:
        ClipScratchError: If the source cannot be read or is of another type, or something is at `output`.

    >>> convert("openai/clip-vit-base-patch32", "runs/clip")  # doctest: +SKIP
    PosixPath('runs/clip')
    """
    check_new_folder("output", output)
    original, processor = load_model(source, "cpu")
    if original.config.model_type not in TYPES:
        # SigLIP neither: it reads texts that are padded to 64 tokens, which the processor of a folder cannot keep.
        raise ClipScratchError(
            f"{source} is a model of type {original.config.model_type!r}; convert takes {', '.join(TYPES)}."
        )
    scale = original.logit_scale.item()
    # Both types pool in the tower, project with one matrix and were trained with the diagonal loss.
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
    write_whole(output, lambda new: (model.save_pretrained(new), processor.save_pretrained(new)), folder=True)
    return Path(output)
