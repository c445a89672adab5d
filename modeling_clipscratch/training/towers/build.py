"""Build the model that a recipe describes, with its processor."""

import contextlib
import logging

import torch
from transformers import CONFIG_MAPPING, AutoConfig, ViTImageProcessorPil

from ...data.images.preprocess import Preprocess
from ...evaluation.safe_loading import explaining_load_errors
from ...hub.configuration_clipscratch import CHOICES
from ...hub.errors_clipscratch import ClipScratchError
from ...hub.modeling_clipscratch import ClipScratchModel
from ...hub.processor_clipscratch import load_tokenizer
from ...hub.towers_clipscratch import build_tower, check_tower_type, first_position, one_line, takes_pooler, tower_class
from ..recipe.arguments import ModelArguments
from .mimetic import mimic_trained_weights
from .word_tokenizer import word_tokenizer


def build_model(options: ModelArguments, captions: list[str] | None):
    """The model that a recipe describes, with its tokenizer and image processor.

    Args:
        options: the recipe's model part.
        captions: training captions; only a text tower from scratch without a tokenizer looks at them.
            `None` where they are not known beforehand.
    Returns: (model, processor).
    Raises: ClipScratchError if a tower, tokenizer or image processor cannot be had or needs code of its own, or the
        sizes do not fit.

    >>> sizes = {"text_hidden_size": 16, "text_num_layers": 1, "vision_hidden_size": 24, "vision_num_layers": 1}
    >>> options = ModelArguments(text_tower="distilbert", vision_tower="vit", image_size=8, projection_dim=4, **sizes)
    >>> model, processor = build_model(options, ["a red circle", "a blue square"])
    >>> processor.tokenizer.tokenize("a blue circle"), model.config.projection_dim
    (['a', 'blue', 'circle'], 4)
    """
    sources = (options.vision_tower, options.tokenizer, options.text_tower)
    sources = [name for name in sources if name and not is_from_scratch(name)]
    with explaining_load_errors(*sources):
        return _build(options, captions)


def check_towers(options: ModelArguments):
    """Build the model before any data are read, so that what does not fit is refused first.

    Args:
        options: the recipe's model part.
    Returns: (model, processor) as of `build_model`; `None` where the tokenizer is made of the training captions, which
        other words stand in for here.
    Raises: as `build_model`.
    """
    if not _reads_captions(options):
        return build_model(options, None)
    with torch.random.fork_rng(devices=[]), _silent():
        build_model(options, ["a word, and another."])
    return None


@contextlib.contextmanager
def _silent():
    logger = logging.getLogger("modeling_clipscratch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _reads_captions(options):
    return options.tokenizer is None and is_from_scratch(options.text_tower)


def _build(options, captions):
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
        reads = processor.tokenizer.model_max_length
        if options.max_length > reads:
            raise ClipScratchError(
                f"max_length={options.max_length} is more than the text tower reads; choose at most {reads}."
            )
        processor.tokenizer.model_max_length = options.max_length
    if options.vision_init == "mimetic":
        mimic_trained_weights(model.vision_model)
    return model, processor


def is_from_scratch(tower: str) -> bool:
    """Whether a recipe names a type of tower rather than weights."""
    return tower in CONFIG_MAPPING


def _vision_source(options):
    """(Vision tower, its image processor), as `from_towers` takes them."""
    if not is_from_scratch(options.vision_tower):
        if options.vision_init != "normal":
            raise ClipScratchError(
                f"vision_init={options.vision_init} is for a tower from scratch, and {options.vision_tower} is "
                "pretrained; leave it out."
            )
        return options.vision_tower, None
    if options.image_size is None:
        raise ClipScratchError(
            f"vision_tower={options.vision_tower} is from scratch and needs image_size (pixels), e.g. 32."
        )
    size, patch = options.image_size, options.patch_size
    if size % patch or size < patch:
        raise ClipScratchError(
            f"image_size={size} is not a multiple of patch_size={patch}; choose {max(patch, patch * (size // patch))}."
        )
    known = AutoConfig.for_model(options.vision_tower)
    if any(hasattr(known, name) for name in ("depths", "hidden_sizes")):
        raise ClipScratchError(
            f"vision_tower={options.vision_tower} is of stages of several widths, which a recipe does not describe; "
            "choose vit or dinov2, or a folder or Hub id with weights."
        )
    check_tower_type(known, "vision")
    _check_heads("vision", options.vision_hidden_size, options.vision_num_heads)
    config = _config(
        options.vision_tower,
        hidden_size=options.vision_hidden_size,
        num_hidden_layers=options.vision_num_layers,
        num_attention_heads=options.vision_num_heads,
        intermediate_size=4 * options.vision_hidden_size,
        image_size=size,
        patch_size=patch,
        initializer_range=initial_deviation(options.vision_hidden_size),
    )
    return config, ViTImageProcessorPil(size={"height": size, "width": size}, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def _text_source(options, captions):
    """(Text tower, its tokenizer), as `from_towers` takes them."""
    kind = options.text_tower
    if not is_from_scratch(kind):
        return kind, options.tokenizer
    known = AutoConfig.for_model(kind)
    check_tower_type(known, "text")
    _check_heads("text", options.text_hidden_size, options.text_num_heads)
    if options.tokenizer is not None:
        tokenizer = load_tokenizer(options.tokenizer)
    elif captions is None:
        raise ClipScratchError(
            f"text_tower={kind} from scratch takes its words from the training captions, which are not known where "
            "they are streamed; name a tokenizer (--tokenizer)."
        )
    else:  # a tower that pools without a layer for it takes the state of the end token
        pools = options.text_pooling == "tower" and not takes_pooler(tower_class(known))
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
        "eos_token_id": ends[-1],  # where a CLIP's text tower takes the state of the text
        "max_position_embeddings": options.max_length or 64,
    }
    config = _config(kind, **{name: size for name, size in sizes.items() if hasattr(known, name)})
    with torch.device("meta"):
        config.max_position_embeddings += first_position(build_tower(config, options.text_pooling))
    return config, tokenizer


def _config(kind, **sizes):
    try:
        return AutoConfig.for_model(kind, **sizes)
    except Exception as error:  # of many kinds: each type checks its sizes in its own way
        raise ClipScratchError(
            f"a {kind} cannot be built from scratch in these sizes ({one_line(error)}); choose another type, for "
            "example distilbert or vit, or a folder or Hub id with weights."
        ) from error


def initial_deviation(width: int) -> float:
    """Standard deviation of new weights: torch's own for a matrix of that many inputs.

    transformers' 0.02 is right for towers 768 wide.

    >>> round(initial_deviation(768), 3), round(initial_deviation(96), 3)
    (0.021, 0.059)
    """
    return (3 * width) ** -0.5


def _check_heads(side, width, heads):
    if width % heads:
        raise ClipScratchError(
            f"{side}_hidden_size={width} is not a multiple of {side}_num_heads={heads}; "
            f"choose {heads * (width // heads)}."
        )
