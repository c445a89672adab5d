"""Model arguments and the training captions go in; a model with its processor, and who has which weights, come out."""

import contextlib
import logging

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PretrainedConfig,
    VisionTextDualEncoderProcessor,
    ViTImageProcessorPil,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # `transformers` asks for torchvision

from ..data.names import public_name
from ..data.pixels import Preprocess
from ..evaluation.damaged_files import naming_damaged_files
from ..evaluation.own_code import forget_code, refusing_own_code
from ..hub.modeling_clipscratch import ClipScratchModel
from ..hub.towers_clipscratch import (
    build_tower,
    check_tower_type,
    first_position,
    load_tower_config,
    one_line,
    takes_pooler,
    tower_class,
)
from .arguments import ModelArguments
from .mimetic import mimic_trained_weights
from .word_tokenizer import word_tokenizer

logger = logging.getLogger(__name__)


def build_model(options: ModelArguments, captions: list[str] | None):
    """The model that a recipe describes, with its tokenizer and image processor.

    Args:
        options: the recipe's model part.
        captions: training captions; only a text tower from scratch without a tokenizer looks at them.
            `None` where they are not known beforehand.
    Returns: (model, processor).
    Raises: ValueError if a tower, tokenizer or image processor cannot be had or needs code of its own, or the sizes do
        not fit.

    >>> sizes = {"text_hidden_size": 16, "text_num_layers": 1, "vision_hidden_size": 24, "vision_num_layers": 1}
    >>> options = ModelArguments(text_tower="distilbert", vision_tower="vit", image_size=8, projection_dim=4, **sizes)
    >>> model, processor = build_model(options, ["a red circle", "a blue square"])
    >>> processor.tokenizer.tokenize("a blue circle"), model.config.projection_dim
    (['a', 'blue', 'circle'], 4)
    """
    sources = (options.vision_tower, options.tokenizer, options.text_tower)
    sources = [name for name in sources if name and not is_from_scratch(name)]
    with refusing_own_code(*sources), naming_damaged_files(*sources):
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
    with torch.random.fork_rng(devices=[]), _silent(logger):
        build_model(options, ["a word, and another."])
    return None


@contextlib.contextmanager
def _silent(logger):
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _reads_captions(options):
    return options.tokenizer is None and is_from_scratch(options.text_tower)


def _build(options, captions):
    vision = _vision_source(options)
    _check_type(options.text_tower, "text")
    image_processor = _image_processor(options)
    tokenizer = _tokenizer(options, captions)
    model, report = ClipScratchModel.from_towers(
        text=_text_source(options, tokenizer),
        vision=vision,
        tokenizer=tokenizer,
        image_size=Preprocess(image_processor).image_size,
        projection_dim=options.projection_dim,
        projection=options.projection,
        text_pooling=options.text_pooling,
        vision_pooling=options.vision_pooling,
        text_state_norm=options.text_state_norm,
        vision_state_norm=options.vision_state_norm,
        freeze_text=options.freeze_text,
        freeze_vision=options.freeze_vision,
        unfreeze_text_layers=options.unfreeze_text_layers,
        unfreeze_vision_layers=options.unfreeze_vision_layers,
        loss=options.loss,
        logit_scale_init_value=options.logit_scale_init_value,
    )
    if options.vision_init == "mimetic":
        mimic_trained_weights(model.vision_model)
    tokenizer.model_max_length = _max_length(options, tokenizer, model)
    for config in (model.config.text_config, model.config.vision_config):
        config._name_or_path = public_name(config._name_or_path)  # saved with the model, read by strangers
    for line in describe_towers(model, report):
        logger.info(line)
    return model, forget_code(VisionTextDualEncoderProcessor(image_processor=image_processor, tokenizer=tokenizer))


def describe_towers(model, report) -> list[str]:
    """Where every weight of the model came from, one line a part."""
    lines = []
    for side, part in report.items():
        frozen = ", frozen" if getattr(model.config, f"freeze_{side}") else ""
        if count := getattr(model.config, f"unfreeze_{side}_layers"):
            frozen += f" but for its last {count} layers"
        loaded, new, unused = (len(part[key]) for key in ("loaded", "new", "unused"))
        line = f"{side} tower: {part['source']}, {part['parameters']:,} parameters{frozen}; "
        line += f"{loaded} weights loaded, {new} new"
        if part["new"] and loaded:
            line += f" ({', '.join(part['new'][:4])}{', ...' if new > 4 else ''})"
        if unused:
            line += (
                f", {unused} of the source left aside ({', '.join(part['unused'][:4])}{', ...' if unused > 4 else ''})"
            )
        lines.append(line)
    heads = sum(p.numel() for part in (model.text_projection, model.visual_projection) for p in part.parameters())
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    lines.append(f"heads: {heads:,} new parameters; in all {learned:,} parameters are trained")
    return lines


def is_from_scratch(tower: str) -> bool:
    """Whether a recipe names a type of tower rather than weights."""
    return tower in CONFIG_MAPPING


def _check_type(tower, side):
    if not is_from_scratch(tower):
        return load_tower_config(tower, side)
    return check_tower_type(AutoConfig.for_model(tower), side)


def _vision_source(options) -> str | PretrainedConfig:
    if not is_from_scratch(options.vision_tower):
        if options.vision_init != "normal":
            raise ValueError(
                f"vision_init={options.vision_init} is for a tower from scratch, and {options.vision_tower} is "
                "pretrained; leave it out."
            )
        _check_type(options.vision_tower, "vision")
        return options.vision_tower
    if options.image_size is None:
        raise ValueError(f"vision_tower={options.vision_tower} is from scratch and needs image_size (pixels), e.g. 32.")
    size, patch = options.image_size, options.patch_size
    if size % patch or size < patch:
        raise ValueError(
            f"image_size={size} is not a multiple of patch_size={patch}; choose {max(patch, patch * (size // patch))}."
        )
    known = AutoConfig.for_model(options.vision_tower)
    if any(hasattr(known, name) for name in ("depths", "hidden_sizes")):
        raise ValueError(
            f"vision_tower={options.vision_tower} is of stages of several widths, which a recipe does not describe; "
            "choose vit or dinov2, or a folder or Hub id with weights."
        )
    _check_type(options.vision_tower, "vision")
    _check_heads("vision", options.vision_hidden_size, options.vision_num_heads)
    return _config(
        options.vision_tower,
        hidden_size=options.vision_hidden_size,
        num_hidden_layers=options.vision_num_layers,
        num_attention_heads=options.vision_num_heads,
        intermediate_size=4 * options.vision_hidden_size,
        image_size=size,
        patch_size=patch,
        initializer_range=initial_deviation(options.vision_hidden_size),
    )


def _text_source(options, tokenizer) -> str | PretrainedConfig:
    kind = options.text_tower
    if not is_from_scratch(kind):
        return kind
    _check_heads("text", options.text_hidden_size, options.text_num_heads)
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
    known = AutoConfig.for_model(kind)
    config = _config(kind, **{name: size for name, size in sizes.items() if hasattr(known, name)})
    with torch.device("meta"):
        config.max_position_embeddings += first_position(build_tower(config, options.text_pooling))
    return config


def _config(kind, **sizes):
    try:
        return AutoConfig.for_model(kind, **sizes)
    except Exception as error:  # of many kinds: each type checks its sizes in its own way
        raise ValueError(
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
        raise ValueError(
            f"{side}_hidden_size={width} is not a multiple of {side}_num_heads={heads}; "
            f"choose {heads * (width // heads)}."
        )


def _image_processor(options):
    if is_from_scratch(options.vision_tower):
        size = {"height": options.image_size, "width": options.image_size}
        return ViTImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_convert_rgb=True)
    try:  # whoever calls the saved processor may give it pictures that are grey, transparent, ...
        processor = AutoImageProcessor.from_pretrained(
            options.vision_tower, backend="pil", trust_remote_code=False, do_convert_rgb=True
        )
    except OSError as error:
        raise ValueError(
            f"vision_tower={options.vision_tower}: no image processor could be loaded; give a folder that has "
            "preprocessor_config.json, mend the id, or connect."
        ) from error
    except (ImportError, ValueError) as error:
        if "contains custom code" in str(error):
            raise
        raise ValueError(
            f"vision_tower={options.vision_tower}: its image processor cannot be used ({one_line(error)[:300]}); "
            "install what is missing, or write a preprocessor_config.json of a ViTImageProcessor with its sizes."
        ) from error
    height, width = Preprocess(processor).image_size
    if options.image_size is not None and (height, width) != (options.image_size, options.image_size):
        native = height if height == width else f"{height}x{width}"
        raise ValueError(
            f"image_size={options.image_size}: the tower {options.vision_tower} takes {native} pixels; "
            f"leave image_size out or choose {native}."
        )
    return processor


def _tokenizer(options, captions):
    source = options.tokenizer or options.text_tower
    if _reads_captions(options):
        if captions is None:
            raise ValueError(
                f"text_tower={options.text_tower} from scratch takes its words from the training captions, which are "
                "not known where they are streamed; name a tokenizer (--tokenizer)."
            )
        # A tower that pools without a layer for it takes the state of the end token.
        pools = options.text_pooling == "tower" and not takes_pooler(tower_class(AutoConfig.for_model(source)))
        return word_tokenizer(captions, end=pools)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"tokenizer {source!r} could not be loaded; give a folder that has one, mend the id, or connect."
        ) from error
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(f"tokenizer {source!r} has no token to pad with; give it a pad_token and save it.")
        tokenizer.pad_token = tokenizer.eos_token
    settle_tokenizer(tokenizer)
    return tokenizer


def settle_tokenizer(tokenizer) -> None:
    """Make a tokenizer pad and cut on the right, and only when asked to, for everybody who loads it.

    Towers number positions from the left, and training pads on the right. Token types are left out: some towers take
    none, and all of one text are the same.
    """
    settings = {"padding_side": "right", "truncation_side": "right"}
    for name, value in {**settings, "model_input_names": ["input_ids", "attention_mask"]}.items():
        setattr(tokenizer, name, value)
        tokenizer.init_kwargs[name] = value  # what is saved
    # What a tokenizer.json with padding or truncation sets, and a processor would call the tokenizer with.
    for name in ("max_length", "stride", "truncation_strategy", "pad_to_multiple_of"):
        tokenizer.init_kwargs.pop(name, None)
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.no_truncation()


def _max_length(options, tokenizer, model):
    tower = model.text_model
    reads = min(tokenizer.model_max_length, tower.config.max_position_embeddings - first_position(tower))
    if options.max_length is not None and options.max_length > reads:
        raise ValueError(f"max_length={options.max_length} is more than the text tower reads; choose at most {reads}.")
    return options.max_length or reads
