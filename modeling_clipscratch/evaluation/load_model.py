"""Load a CLIP with its processor, and check that it can be measured."""

import re
from pathlib import Path

import torch
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, AutoProcessor, ProcessorMixin

import modeling_clipscratch  # noqa: F401  (registers the ClipScratch classes with the Auto classes)

from ..data.images.preprocess import Preprocess
from ..hub.processor_clipscratch import forget_code, load_image_processor
from ..utils.checksums import SUMS, find_damage
from ..utils.errors import ClipScratchError
from ..utils.names import first_line, is_of_a_model
from .encode import encode_pixels, encode_texts
from .evaluate_dataset import log_scale
from .safe_loading import explaining_load_errors


def load_model(folder_or_id: str | Path, device: str = "auto"):
    """Load a CLIP and its processor. Code from the folder is never run.

    Args:
        folder_or_id: a folder that was saved with its processor, or a Hub id.
        device: `auto`, or a name that torch knows (`cpu`, `cuda:1`).

    Returns:
        The model on the device and in `eval()`, and the processor with `.tokenizer` and `.image_processor`.

    Raises:
        ClipScratchError: If there is no such model, a part of it is missing, it does not embed images and texts, it
            needs code of its own, a file is damaged (the message names it), or the device is missing.

    >>> model, processor = load_model("runs/digits")
    >>> model.config.model_type, model.training
    ('clipscratch', False)
    """
    where = str(folder_or_id)
    _check_folder(Path(where))
    chosen = _find_device(device)
    with explaining_load_errors(where):
        try:
            config = AutoConfig.from_pretrained(where, trust_remote_code=False)
        except OSError as error:
            raise ClipScratchError(
                f"{where} is neither a folder with a model nor the id of one that can be reached: {first_line(error)}."
            ) from error
        if not hasattr(MODEL_MAPPING.get(type(config), None), "get_image_features"):
            raise ClipScratchError(
                f"{where} holds a model of type {config.model_type!r}, which has no image and text features; give a "
                "ClipScratch model or a CLIP."
            )
        try:
            model, report = AutoModel.from_pretrained(where, trust_remote_code=False, output_loading_info=True)
            processor = AutoProcessor.from_pretrained(where, trust_remote_code=False)
        except OSError as error:
            raise ClipScratchError(
                f"{where} is incomplete (weights, tokenizer and image processor are needed): {first_line(error)}."
            ) from error
        if not isinstance(processor, ProcessorMixin):
            raise ClipScratchError(
                f"{where} has no processor, only a {type(processor).__name__}; save the processor of the model "
                "(tokenizer and image processor) beside it."
            )
        # With PIL, so that pixels do not depend on whether torchvision is installed, which resizes differently.
        processor.image_processor = load_image_processor(where)
    if missing := sorted(report["missing_keys"]):  # transformers initialises them at random
        raise ClipScratchError(
            f"{where} lacks {len(missing)} weights of a {type(model).__name__} ({missing[0]}, ...); save the whole "
            "model, adapters (LoRA) merged, and copy it again."
        )
    _check_towers(model.eval(), forget_code(processor), where)
    return model.to(chosen), processor


def _find_device(device):
    if device == "auto":
        return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ClipScratchError(
            f"device={device} cannot be used here: {first_line(error)}. Choose auto or cpu."
        ) from error


def _check_folder(folder):
    if folder.is_dir() and not (folder / "config.json").is_file():
        inside = (path.parent for path in folder.glob("*/config.json"))
        models = sorted(inside, key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)])
        hint = f"did you mean {models[-1]}?" if models else "give the folder that training wrote."
        raise ClipScratchError(f"{folder} has no config.json, so it holds no model; {hint}")
    if (folder / SUMS).is_file() and (damage := find_damage(folder, concerns=is_of_a_model)):
        raise ClipScratchError(
            f"{folder} is damaged: {damage}; copy the folder again, or, if you changed it on purpose, delete {SUMS}."
        )


def _check_towers(model, processor, where):
    """Encode an image and two texts, and refuse a model that cannot, or whose texts depend on their batch (AIMv2)."""
    try:
        preprocess, texts = Preprocess(processor.image_processor), ["a", "a photo of a dog and a cat"]
        pixels = torch.zeros(1, *preprocess.image_size, 3, dtype=torch.uint8)
        log_scale(model)
        encode_pixels(model, pixels, preprocess.mean, preprocess.std)
        alone, together = (encode_texts(model, processor.tokenizer, texts, batch_size=n, warn=False) for n in (1, 2))
        exact = next(model.text_model.parameters()).dtype == torch.float32
        if (alone * together).sum(-1).min() <= 1 - (1e-5 if exact else 1e-2):  # NaN is reported by the metrics
            raise ClipScratchError("the embedding of a text depends on the other texts of its batch")
    except Exception as error:  # of many kinds, since each type of model lacks something else
        raise ClipScratchError(
            f"{where} holds a model of type {model.config.model_type!r} that does not embed images and texts as a CLIP "
            f"does ({type(error).__name__}: {first_line(error)}); give a ClipScratch model or a CLIP."
        ) from error
