"""Load the tokenizer and the image processor of two towers, and join them to one processor."""

import torch
from torch import nn
from transformers import (
    AutoTokenizer,
    ImageProcessingMixin,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    VisionTextDualEncoderProcessor,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # `transformers` asks for torchvision

from .configuration_clipscratch import without_foreign_code
from .errors_clipscratch import ClipScratchError
from .towers_clipscratch import first_position, one_line


def own_source(tower, side, argument):
    """Return the folder or Hub id of a tower, which may hold its `tokenizer` or `image_processor` (`argument`)."""
    source = tower.name_or_path if isinstance(tower, (nn.Module, PretrainedConfig)) else tower
    if not source:
        raise ClipScratchError(
            f"{argument} is missing: the {side} tower was made from a config and brings none; give {argument} a "
            "folder, a Hub id or the object itself."
        )
    return source


def build_processor(tokenizer, image_processor, text_tower):
    """Build the `VisionTextDualEncoderProcessor` of two towers, which cuts texts at what the text tower reads."""
    tokenizer, image_processor = load_tokenizer(tokenizer), load_image_processor(image_processor)
    positions = text_tower.config.max_position_embeddings - first_position(text_tower)
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    return forget_code(VisionTextDualEncoderProcessor(image_processor=image_processor, tokenizer=tokenizer))


def load_tokenizer(source):
    """Load a tokenizer (`source` may be one), and make it pad and truncate on the right, and only when it is asked to.

    Towers number positions from the left, and training pads on the right. Token types are left out: some towers take
    none, and all of one text are the same.
    """
    tokenizer = source
    if not isinstance(source, PreTrainedTokenizerBase):
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ClipScratchError(
                f"tokenizer {str(source)!r} could not be loaded; give a folder that has one, correct the id, or "
                "connect."
            ) from error
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ClipScratchError(
                f"tokenizer {tokenizer.name_or_path!r} has no token to pad with; give it a pad_token and save it."
            )
        tokenizer.pad_token = tokenizer.eos_token
    settings = {"padding_side": "right", "truncation_side": "right"}
    for name, value in {**settings, "model_input_names": ["input_ids", "attention_mask"]}.items():
        setattr(tokenizer, name, value)
        tokenizer.init_kwargs[name] = value  # these are saved
    # Set by a tokenizer.json with padding or truncation; a processor would pass them to the tokenizer.
    for name in ("max_length", "stride", "truncation_strategy", "pad_to_multiple_of"):
        tokenizer.init_kwargs.pop(name, None)
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.no_truncation()
    return tokenizer


def load_image_processor(source):
    """Load an image processor with the PIL back-end (`source` may be one), and make it convert images to RGB."""
    processor = source
    if not isinstance(source, ImageProcessingMixin):
        try:
            processor = AutoImageProcessor.from_pretrained(source, backend="pil", trust_remote_code=False)
        except (OSError, ImportError, ValueError) as error:
            raise ClipScratchError(
                f"image processor {str(source)!r} could not be loaded ({one_line(error)[:300]}); give a folder that "
                "has a preprocessor_config.json, correct the id, or connect."
            ) from error
    processor.do_convert_rgb = True  # users of the saved processor may have grey or transparent images
    return processor


def processed_size(image_processor):
    """Return the height and width of the images that an image processor makes; `ClipScratchError` if they differ."""
    try:
        images = (torch.zeros(3, *size, dtype=torch.uint8) for size in ((48, 96), (96, 48)))
        wide, tall = (tuple(image_processor(one, return_tensors="pt")["pixel_values"].shape) for one in images)
        made = f"it makes {wide} and {tall}"
    except Exception as error:  # processors of patches, tiles, pairs or videos fail each in its own way
        wide, tall, made = (), (), one_line(error)
    if wide != tall or len(wide) != 4 or wide[:2] != (1, 3):
        raise ClipScratchError(
            f"the image processor {type(image_processor).__name__} does not make one image of three channels and of "
            f"one shape ({made}); give size a height and a width, or crop_size with do_center_crop, or give a tower "
            "with such an image processor, such as a ViT, DINOv2 or CLIP."
        )
    return wide[2:]


def forget_code(processor):
    """Remove references to code from a processor, tokenizer or image processor, so that they are not saved with it."""
    for part in (processor, *vars(processor).values()):
        if getattr(part, "_auto_class", None) is not None:
            raise ClipScratchError(
                f"{type(part).__name__} is a class with code of its own ({type(part).__module__}), which does not "
                "travel with the model; give a tokenizer and an image processor of transformers' own classes."
            )
        if isinstance(part, PreTrainedTokenizerBase):
            part.init_kwargs = without_foreign_code(part.init_kwargs)
        elif isinstance(part, ImageProcessingMixin):
            part.__dict__ = without_foreign_code(vars(part))
    return processor
