"""Build the model that a recipe describes, with its processor."""

import logging

import torch
from transformers import AutoConfig, ViTImageProcessorPil

from ...data.images.preprocess import Preprocess
from ...evaluation.safe_loading import explaining_load_errors
from ...hub.configuration_clipscratch import CHOICES
from ...hub.modeling_clipscratch import ClipScratchModel
from ...hub.processor_clipscratch import load_tokenizer
from ...hub.towers_clipscratch import build_tower, check_tower_type, first_position, one_line, takes_pooler, tower_class
from ...utils.errors import ClipScratchError
from ..recipe.arguments import ModelArguments, is_from_scratch
from .mimetic import mimic_trained_weights
from .word_tokenizer import word_tokenizer


def check_towers(options: ModelArguments):
    """Build the model before any data are read, so that options that do not fit are refused first.

    Returns the result of `build_model`; `None` where the tokenizer is made of the training captions, for which other
    words stand in here.
    """
    if options.tokenizer is not None or not is_from_scratch(options.text_tower):
        return build_model(options, None)
    logger = logging.getLogger("modeling_clipscratch")
    level = logger.level
    logger.setLevel(logging.ERROR)  # the model that is trained is described later
    try:
        with torch.random.fork_rng(devices=[]):
            build_model(options, ["a word, and another."])
    finally:
        logger.setLevel(level)
    return None


def build_model(options: ModelArguments, captions: list[str] | None):
    """Return the model that a recipe describes and its processor.

    Args:
        options: the recipe's model part.
        captions: training captions, for a text tower from scratch without a tokenizer; `None` where they are not known
            beforehand.

    Raises:
        ClipScratchError: If a tower, tokenizer or image processor cannot be loaded or needs code of its own, or sizes
            do not fit.
    """
    sources = (options.vision_tower, options.tokenizer, options.text_tower)
    sources = [name for name in sources if name and not is_from_scratch(name)]
    with explaining_load_errors(*sources):
        text, tokenizer = _text_source(options, captions)
        vision, image_processor = _vision_source(options)
        choices = {name: value for name, value in vars(options).items() if name in CHOICES}
        model, processor = ClipScratchModel.from_towers(
            text, vision, tokenizer=tokenizer, image_processor=image_processor, **choices
        )
        height, width = Preprocess(processor.image_processor).image_size
    if options.image_size is not None and (height, width) != (options.image_size, options.image_size):
        native = height if height == width else f"{height}x{width}"
        raise ClipScratchError(
            f"image_size={options.image_size}: the tower {options.vision_tower} takes {native} pixels; "
            f"leave image_size out or choose {native}."
        )
    if options.max_length is not None:
        longest = processor.tokenizer.model_max_length
        if options.max_length > longest:
            raise ClipScratchError(
                f"max_length={options.max_length} is more than the text tower reads; choose at most {longest}."
            )
        processor.tokenizer.model_max_length = options.max_length
    if options.vision_init == "mimetic":
        mimic_trained_weights(model.vision_model)
    return model, processor


def _vision_source(options):
    """Return the vision tower and its image processor, as `from_towers` takes them."""
    kind, size, patch = options.vision_tower, options.image_size, options.patch_size
    if not is_from_scratch(kind):
        if options.vision_init != "normal":
            raise ClipScratchError(f"vision_init={options.vision_init} is not for a pretrained tower; leave it out.")
        return kind, None
    if size is None:
        raise ClipScratchError(f"vision_tower={kind} is from scratch and needs image_size (pixels), e.g. 32.")
    if size % patch or size < patch:
        raise ClipScratchError(
            f"image_size={size} is not a multiple of patch_size={patch}; choose {max(patch, patch * (size // patch))}."
        )
    default = AutoConfig.for_model(kind)
    if any(hasattr(default, name) for name in ("depths", "hidden_sizes")):
        raise ClipScratchError(
            f"vision_tower={kind} has stages of several widths, which a recipe does not describe; choose vit or "
            "dinov2, or a folder or Hub id with weights."
        )
    check_tower_type(default, "vision")
    width = options.vision_hidden_size
    sizes = {
        "hidden_size": width,
        "num_hidden_layers": options.vision_num_layers,
        "num_attention_heads": options.vision_num_heads,
        "intermediate_size": 4 * width,
        "image_size": size,
        "patch_size": patch,
        "initializer_range": (3 * width) ** -0.5,  # torch's own; transformers' 0.02 is right for towers 768 wide
    }
    config = _config(kind, **sizes)
    return config, ViTImageProcessorPil(size={"height": size, "width": size}, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def _text_source(options, captions):
    """Return the text tower and its tokenizer, as `from_towers` takes them."""
    kind = options.text_tower
    if not is_from_scratch(kind):
        return kind, options.tokenizer
    default = AutoConfig.for_model(kind)
    check_tower_type(default, "text")
    if options.tokenizer is not None:
        tokenizer = load_tokenizer(options.tokenizer)
    elif captions is None:
        raise ClipScratchError(
            f"text_tower={kind} from scratch takes its words from the training captions, which are not known where "
            "they are streamed; name a tokenizer (--tokenizer)."
        )
    else:  # a tower that pools without a layer for it pools the end token
        pools = options.text_pooling == "tower" and not takes_pooler(tower_class(default))
        tokenizer = word_tokenizer(captions, end=pools)
    ends = tokenizer("")["input_ids"] or [tokenizer.eos_token_id]
    sizes = {
        "hidden_size": options.text_hidden_size,
        "num_hidden_layers": options.text_num_layers,
        "num_attention_heads": options.text_num_heads,
        "num_key_value_heads": options.text_num_heads,
        "intermediate_size": 4 * options.text_hidden_size,
        "hidden_dim": 4 * options.text_hidden_size,  # DistilBERT's name of the same
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": ends[0],
        "eos_token_id": ends[-1],  # the token that a CLIP's text tower pools
        "max_position_embeddings": options.max_length or 64,
    }
    config = _config(kind, **{name: size for name, size in sizes.items() if hasattr(default, name)})
    with torch.device("meta"):
        config.max_position_embeddings += first_position(build_tower(config, options.text_pooling))
    return config, tokenizer


def _config(kind, **sizes):
    width, heads = (sizes.get(name, 1) for name in ("hidden_size", "num_attention_heads"))
    if width % heads:
        fits = heads * (width // heads)
        raise ClipScratchError(f"a hidden size of {width} is not a multiple of {heads} heads; choose {fits}.")
    try:
        return AutoConfig.for_model(kind, **sizes)
    except Exception as error:  # each type checks its sizes in its own way
        raise ClipScratchError(
            f"a {kind} cannot be built from scratch in these sizes ({one_line(error)}); choose another type, for "
            "example distilbert or vit, or a folder or Hub id with weights."
        ) from error
