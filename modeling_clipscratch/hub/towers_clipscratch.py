"""Load, check, freeze and pool the towers of a model."""

import inspect

import torch
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, PretrainedConfig

from .configuration_clipscratch import tower_width
from .errors_clipscratch import ClipScratchError

_SIDES = {  # side -> (its input, its modality, types to recommend)
    "text": ("input_ids", "text", "distilbert, bert or roberta"),
    "vision": ("pixel_values", "image", "vit, dinov2 or clip_vision_model"),
}


def load_tower(source, side, pooling):
    """Load or build a tower. transformers warns of weights that are new or not used.

    Args:
        source: Hub id or local folder (pretrained weights, as float32), a config (new weights), or a module, which is
            used as it is.
        side: `text` or `vision`; of a model with both (CLIP) that side is loaded.
        pooling: as in `ClipScratchConfig`; the tower's own pooling layer is built for `tower` only.
    """
    if isinstance(source, nn.Module):
        check_tower_type(source.config, side)
        expected = tower_class(source.config)
        if not isinstance(source, expected):  # a saved model is built from its config alone
            raise ClipScratchError(
                f"{side} tower: a {type(source).__name__} is not what AutoModel makes of its config, a "
                f"{expected.__name__}; give that."
            )
        return source
    if isinstance(source, PretrainedConfig):
        check_tower_type(source, side)
        return build_tower(source, pooling)
    config = load_tower_config(source, side)
    options = {"dtype": torch.float32, "use_safetensors": True, **_pooling_layer(config, pooling)}
    try:
        tower, info = AutoModel.from_pretrained(
            source, config=config, output_loading_info=True, trust_remote_code=False, **options
        )
    except (ImportError, OSError) as error:
        raise _not_loaded(source, side, error) from error
    unused, missing = sorted(info["unexpected_keys"]), info["missing_keys"]
    if any(".lora_" in name for name in unused) or all(name in missing for name, _ in tower.named_parameters()):
        raise ClipScratchError(
            f"{side} tower {str(source)!r} holds other weights than those of a {config.model_type} "
            f"({', '.join(unused[:2])}, ...); give the folder of the tower itself, with adapters (LoRA, peft) merged."
        )
    return tower


def load_tower_config(source, side):
    """Load the config of the tower in a folder or under a Hub id; of a model with both sides, that of this side."""
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)  # a tower's own code would not travel
    except OSError as error:
        raise _not_loaded(source, side, error) from error
    config = config.sub_configs and getattr(config, f"{side}_config", None) or config
    check_tower_type(config, side)
    return config


def _not_loaded(source, side, error):
    return ClipScratchError(
        f"{side} tower {str(source)!r} could not be loaded ({one_line(error).split('. ')[0]}); give a folder with "
        "config.json and safetensors, correct the id, or connect."
    )


def describe_model(model) -> list[str]:
    """Describe the towers of a model and what is trained of them, one line each."""
    lines = []
    for side in ("text", "vision"):
        tower, frozen = getattr(model, f"{side}_model"), ""
        name = f"{tower.config.model_type}, {tower.name_or_path}" if tower.name_or_path else tower.config.model_type
        if getattr(model.config, f"freeze_{side}"):
            count = getattr(model.config, f"unfreeze_{side}_layers")
            frozen = f", frozen except for its last {count} layers" if count else ", frozen"
        lines.append(f"{side} tower ({name}): {tower.num_parameters():,} parameters{frozen}")
    return [*lines, f"with the heads, {model.num_parameters(only_trainable=True):,} parameters are trained"]


def one_line(error):
    """Return the class and message of an error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def tower_class(config):
    """Return the class that `AutoModel` knows for a config; `ClipScratchError` if there is none."""
    try:
        model_class = MODEL_MAPPING[type(config)]
    except (KeyError, ValueError) as error:  # transformers names some classes that it does not have
        raise ClipScratchError(
            f"model_type {config.model_type!r} is not an encoder that AutoModel knows; choose another tower."
        ) from error
    return model_class[0] if isinstance(model_class, (list, tuple)) else model_class


def check_tower_type(config, side):
    """Raise `ClipScratchError` if, by its config and class alone, a tower cannot be the `text` or `vision` tower."""
    kind, (expected, modality, recommended) = config.model_type, _SIDES[side]
    part = getattr(config, f"{side}_config", None) if config.sub_configs else None
    if isinstance(part, PretrainedConfig):
        raise ClipScratchError(
            f"{side} tower {kind!r} is a model of several towers; name the type of its {side} tower, "
            f"{part.model_type!r}, or give a folder or Hub id with its weights."
        )
    model_class = tower_class(config)
    try:
        main, modalities = model_class.main_input_name, model_class.input_modalities
    except ImportError as error:  # transformers puts a placeholder where a library is missing
        raise ClipScratchError(f"{side} tower {kind!r} cannot be used: {one_line(error)}") from error
    modalities = {modalities} if isinstance(modalities, str) else set(modalities)
    fits = main == expected and modalities <= {modality, "text"}  # "text" is the default of transformers
    fits = fits and not getattr(config, "is_encoder_decoder", False)
    if not fits or side == "text" and not hasattr(config, "max_position_embeddings"):
        raise ClipScratchError(
            f"a model of type {kind!r} reads {main}, and a {side} tower is an encoder of {expected} alone, without a "
            f"decoder and, for texts, with max_position_embeddings; choose another, for example {recommended}."
        )
    tower_width(config)


def takes_pooler(model_class):
    """Return whether models of the class can be built without a pooling layer."""
    return "add_pooling_layer" in inspect.signature(model_class.__init__).parameters


def _pooling_layer(config, pooling):
    # Only where it is used: DDP wants every weight used.
    return {"add_pooling_layer": pooling == "tower"} if takes_pooler(tower_class(config)) else {}


def build_tower(config, pooling):
    """Build a tower with new weights from its config; `ClipScratchError` if its class cannot be built from it."""
    options = _pooling_layer(config, pooling)
    try:
        return AutoModel.from_config(config, **options)
    except Exception as error:  # each class checks its sizes, or needs a library, in its own way
        raise ClipScratchError(
            f"a tower of type {config.model_type!r} cannot be built from its config ({one_line(error)}); choose "
            "another tower."
        ) from error


def first_position(tower):
    """Return the number of the first position: RoBERTa and its kin start after the padding's number, others at 0."""
    tables = (module for name, module in tower.named_modules() if name.split(".")[-1] == "position_embeddings")
    return next((table.padding_idx + 1 for table in tables if getattr(table, "padding_idx", None) is not None), 0)


def freeze_tower(tower, unfrozen_layers):
    """Disable the gradients of a tower, except for its last blocks and what follows them, such as a norm."""
    tower.requires_grad_(False)
    if unfrozen_layers:
        if hasattr(tower.config, "depths"):
            raise ClipScratchError(
                f"a {tower.config.model_type} tower is of stages, whose layers are in no one row; train all or none."
            )
        first = next(last_blocks(tower, unfrozen_layers)[0].parameters())
        reached = False
        for parameter in tower.parameters():  # in the order of their definition, which is that of their use
            reached = reached or parameter is first
            parameter.requires_grad_(reached)


def is_fixed(tower):
    """Return whether no weight of the tower is trained, so that its features can be cached."""
    return not any(parameter.requires_grad for parameter in tower.parameters())


def last_blocks(tower, count):
    """Return the last `count` blocks of a tower, first to last; `ClipScratchError` if it has fewer.

    The blocks are the list of modules that has as many as the config has layers, else the longest list.
    """
    lists = [module for module in tower.modules() if isinstance(module, nn.ModuleList)]
    layers = None if hasattr(tower.config, "depths") else getattr(tower.config, "num_hidden_layers", None)
    # A mixture of experts may have more experts in a block than blocks.
    blocks = list(max(lists, key=lambda modules: (len(modules) == layers, len(modules)), default=[]))
    if count > len(blocks):
        raise ClipScratchError(
            f"{count} layers of a {tower.config.model_type} tower are to be trained, but it has {len(blocks)}; choose "
            f"at most {len(blocks)}."
        )
    return blocks[len(blocks) - count :]


def pool(output, attention_mask, pooling, state_norm):
    """Pool the tokens of each row to one feature vector.

    Args:
        output: tower output with `last_hidden_state` (B, T, W).
        attention_mask: (B, T), 1 for a token that counts in the mean; `None` counts all.
        pooling, state_norm: as in `ClipScratchConfig`.

    Returns:
        (B, D), D = W, or 2 W for `cls+mean`.
    """
    if pooling == "tower":
        if output.get("pooler_output") is None:
            raise ClipScratchError("pooling 'tower': this tower has no pooled output; choose cls, mean or cls+mean.")
        features = output.pooler_output
    else:
        tokens = output.last_hidden_state
        if attention_mask is None:
            mean = tokens.mean(1)
        else:
            weight = attention_mask.to(tokens.dtype)[..., None]
            mean = (tokens * weight).sum(1) / weight.sum(1)
        features = {"cls": [tokens[:, 0]], "mean": [mean], "cls+mean": [tokens[:, 0], mean]}[pooling]
        features = torch.cat(features, dim=-1)
    return nn.functional.normalize(features, dim=-1) if state_norm == "l2" else features
