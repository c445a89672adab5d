"""A folder or a Hub id goes in; a model on its device, ready to read, and its processor come out."""

import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoProcessor,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # `transformers` asks for torchvision

import modeling_clipscratch  # noqa: F401  (makes the ClipScratch classes known to the Auto classes)

from ..hub.errors_clipscratch import ClipScratchError
from ..hub.processor_clipscratch import forget_code
from ..utils.checksums import SUMS, find_damage
from ..utils.local_files import read_json
from ..utils.model_files import is_of_a_model
from .damaged_files import naming_damaged_files, try_image_processor
from .encode import encode_texts
from .remote_code import refusing_own_code


def load_model(folder_or_id: str | Path, device: str = "auto"):
    """Loads a CLIP and its processor. Never runs code from the folder.

    Args:
        folder_or_id: a folder that was saved with its processor, or a Hub id.
        device: `auto`, or a name that torch knows (`cpu`, `cuda:1`).
    Returns: (model in `eval()`, processor with `.tokenizer` and `.image_processor`).
    Raises: ClipScratchError if there is no such model, a part of it is missing, it has no picture or no text
        features, it needs code of its own, a file of it is damaged (named), or the device is missing.

    >>> model, processor = load_model("runs/digits")
    >>> model.config.model_type, model.training
    ('clipscratch', False)
    """
    where = str(folder_or_id)
    folder = Path(where)
    if (folder / "adapter_config.json").is_file():
        base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
        raise ClipScratchError(
            f"{where} holds adapters (peft) of {base} and no model; load them with peft, call merge_and_unload(), and "
            "save that model with its processor."
        )
    if folder.exists() and not (folder / "config.json").is_file():
        names = (found.parent.name for found in folder.glob("*/config.json"))
        runs = sorted(names, key=_by_number) if folder.is_dir() else []
        hint = f"did you mean {folder / runs[-1]}?" if runs else "give the folder that training wrote."
        raise ClipScratchError(f"{where} has no config.json, so it holds no model; {hint}")
    if (folder / SUMS).is_file() and (damage := find_damage(folder, concerns=is_of_a_model)):
        raise ClipScratchError(
            f"{where} is damaged: {damage}; copy the folder again, or, if you changed it on purpose, delete its {SUMS}."
        )
    chosen = find_device(device)
    with refusing_own_code(where), naming_damaged_files(where):
        model, processor = _load(where)
    return model.to(chosen).eval(), processor


def _load(where):
    try:
        config = AutoConfig.from_pretrained(where, trust_remote_code=False)
    except (OSError, ValueError) as error:
        trouble = "is neither a folder with a model nor the id of one that can be reached"
        place = f"{where}/config.json cannot be used" if Path(where).is_dir() else f"{where} {trouble}"
        raise ClipScratchError(f"{place}: {_first_line(error)}") from error
    model_class = MODEL_MAPPING.get(type(config), None)
    if not (hasattr(model_class, "get_image_features") and hasattr(model_class, "get_text_features")):
        raise ClipScratchError(
            f"{where} holds a model of type {config.model_type!r}, which gives no picture and text features; "
            "give a ClipScratch model or a CLIP."
        )
    try:
        model, report = AutoModel.from_pretrained(where, trust_remote_code=False, output_loading_info=True)
        processor = AutoProcessor.from_pretrained(where, trust_remote_code=False)
        # The same pixels, whether torchvision is installed or not; it resizes a little differently.
        image_processor = AutoImageProcessor.from_pretrained(where, trust_remote_code=False, backend="pil")
        try_image_processor(image_processor)
    except ImportError as error:  # the older tokenizers of some families (SigLIP) have a library of their own
        raise ClipScratchError(
            f"{where} needs a library that is not installed: {_first_line(error)} Often it is "
            "pip install sentencepiece protobuf."
        ) from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        mismatch = "the weights have other shapes than config.json says; copy the folder again."
        reason = mismatch if "ignore_mismatched_sizes" in str(error) else _first_line(error)
        raise ClipScratchError(
            f"{where} cannot be loaded whole (weights, tokenizer and image processor are needed): {reason}"
        ) from error
    if not isinstance(processor, ProcessorMixin):
        raise ClipScratchError(
            f"{where} has no processor, only a {type(processor).__name__}; save the model's processor (tokenizer and "
            "image processor) beside it."
        )
    processor.image_processor = image_processor
    forget_code(processor)
    lacking = [part for part in ("logit_scale", "text_model", "vision_model") if not hasattr(model, part)]
    if lacking or config.model_type == "siglip2":
        why = f"has no {lacking[0]}" if lacking else "reads patches of pictures of any shape"
        raise ClipScratchError(
            f"{where} holds a model of type {config.model_type!r}, which {why}; give a ClipScratch model or a CLIP."
        )
    _check_weights(model, report, where)
    _check_text_tower(model, where)
    _check_batches(model, processor.tokenizer, where)
    return model, processor


def _check_weights(model, report, where):
    """Weights that are missing would be drawn at random by transformers."""
    missing, saved = sorted(report["missing_keys"]), (model.config.architectures or [None])[0]
    if not missing:
        return
    if any(".lora_" in name for name in report["unexpected_keys"]):
        raise ClipScratchError(
            f"{where} holds weights with adapters (LoRA, peft) that are not merged, for which a {type(model).__name__} "
            "has no place; call merge_and_unload() on the model and save it again."
        )
    if saved not in (None, type(model).__name__):
        raise ClipScratchError(
            f"{where} holds a {saved}, whose weights are not those of a {type(model).__name__} ({missing[0]} is "
            "missing for one), and only that gives picture and text features; give a ClipScratch model or a CLIP."
        )
    raise ClipScratchError(
        f"{where} cannot be loaded whole: {len(missing)} of the model's weights are not in its file, {missing[0]} "
        "for one; copy the folder again, or save it again where it was trained."
    )


def _check_batches(model, tokenizer, where):
    """A figure would depend on which texts share a batch (AIMv2's text tower reads both ways where none is padded)."""
    texts = ["a", "a photo of a dog and a cat"]
    alone, together = (encode_texts(model, tokenizer, texts, batch_size=size, say_cut=False) for size in (1, 2))
    exact = next(model.text_model.parameters()).dtype == torch.float32
    if (alone * together).sum(-1).min() <= 1 - (1e-5 if exact else 1e-2):  # NaN has a sentence of its own, later
        raise ClipScratchError(
            f"{where} holds a model of type {model.config.model_type!r}, whose embedding of a text depends on the "
            "texts beside it in its batch; give a ClipScratch model or a CLIP."
        )


def _check_text_tower(model: PreTrainedModel, where: str) -> None:
    """A `VisionTextDualEncoderModel` is saved with any text tower, but reads only one that pools its tokens."""
    if model.config.model_type != "vision-text-dual-encoder":
        return
    with torch.inference_mode():
        found = model.text_model(input_ids=torch.zeros(1, 1, dtype=torch.long))
    if "pooler_output" not in found:
        raise ClipScratchError(
            f"{where} holds a VisionTextDualEncoderModel with a {model.config.text_config.model_type!r} text tower, "
            "which gives no pooled output for it to read; train the two towers as a ClipScratch model."
        )


def find_device(device: str = "auto") -> torch.device:
    """`auto` -> the first there is of CUDA, Apple's MPS and the CPU; another name -> that device, checked."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ClipScratchError(
            f"device={device} cannot be used here: {_first_line(error)} Choose auto or cpu."
        ) from error
    return torch.device(device)


def _by_number(name):
    """`checkpoint-900` comes before `checkpoint-1000`."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"(\d+)", name))]


def _first_line(error):
    return str(error).strip().splitlines()[0]
