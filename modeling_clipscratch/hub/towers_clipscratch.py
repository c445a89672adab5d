"""A Hub id, a folder, a config or a module goes in; a tower with an account of its weights comes out. And pooling."""

import inspect

import torch
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, PretrainedConfig

from .configuration_clipscratch import tower_width
from .errors_clipscratch import ClipScratchError

# Side -> (its input, its modality, types to recommend)
_SIDES = {
    "text": ("input_ids", "text", "distilbert, bert or roberta"),
    "vision": ("pixel_values", "image", "vit, dinov2 or clip_vision_model"),
}


def load_tower(source, side, pooling):
    """A tower and an account of its weights.

    Args:
        source: Hub id or local folder (pretrained weights, as float32), a config (new weights), or a module, which
            is taken as it is.
        side: `text` or `vision`; of a folder with both (CLIP; SigLIP's pictures) that side is taken.
        pooling: as in `ClipScratchConfig`; the pooling layer is made for `tower` only.
    Returns: (tower, report): report has `source`, `parameters` (their number), `loaded`, `new` and `unused` (lists
        of weight names).
    Raises: ClipScratchError if `check_tower_type` does not admit the tower, or there is no such id or folder.
    """
    if isinstance(source, nn.Module):
        check_tower_type(source.config, side)
        if not isinstance(source, tower_class(source.config)):  # a saved model is built by its config alone
            raise ClipScratchError(
                f"{side} tower: a {type(source).__name__} is not what AutoModel makes of its config, a "
                f"{tower_class(source.config).__name__}; give that."
            )
        return source, _account(
            source, type(source).__name__ + " (as given)", loaded=[n for n, _ in source.named_parameters()]
        )
    if isinstance(source, PretrainedConfig):
        check_tower_type(source, side)
        tower = build_tower(source, pooling)
        return tower, _account(
            tower, f"{source.model_type} (from scratch)", new=[n for n, _ in tower.named_parameters()]
        )
    config = load_tower_config(source, side)
    extra = {"add_pooling_layer": pooling == "tower"} if takes_pooler(tower_class(config)) else {}
    try:
        tower, info = AutoModel.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            use_safetensors=True,
            trust_remote_code=False,
            **extra,
        )
    except ImportError as error:
        raise ClipScratchError(f"{side} tower {str(source)!r} cannot be used: {one_line(error)}") from error
    except OSError as error:
        raise _not_found(source, side, error) from error
    missing = set(info["missing_keys"])
    loaded = [name for name, _ in tower.named_parameters() if name not in missing]
    if any(".lora_" in name for name in info["unexpected_keys"]):
        raise ClipScratchError(
            f"{side} tower {str(source)!r} holds weights with adapters (LoRA, peft) that are not merged; call "
            "merge_and_unload() on the model and save it again."
        )
    if not loaded:
        raise ClipScratchError(
            f"{side} tower {str(source)!r} holds none of the weights of a {config.model_type} (it has "
            f"{', '.join(sorted(info['unexpected_keys'])[:2])}, ...); give the folder of the tower itself."
        )
    return tower, _account(
        tower, str(source), loaded=loaded, new=sorted(missing), unused=sorted(info["unexpected_keys"])
    )


def load_tower_config(source, side):
    """The config of the tower in a folder or under a Hub id; of a model with both sides that of this side.

    Raises: ClipScratchError if there is none, or `check_tower_type` does not admit it.
    """
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)  # the tower's own code would not travel
    except OSError as error:
        raise _not_found(source, side, error) from error
    config = config.sub_configs and getattr(config, f"{side}_config", None) or config
    try:
        check_tower_type(config, side)
    except ValueError as error:
        raise ClipScratchError(f"{side} tower {str(source)!r}: {error}") from error
    return config


def _not_found(source, side, error):
    return ClipScratchError(
        f"{side} tower {str(source)!r} could not be loaded: it is neither a folder with config.json and safetensors "
        f"here nor an id that the Hub or its cache could give ({one_line(error).split('. ')[0]}); give a folder, mend "
        "the id, or connect."
    )


def check_whole(config, missing):
    """Raises: ClipScratchError if weights are not in a folder's file: transformers would draw them at random."""
    if missing := sorted(missing):
        raise ClipScratchError(
            f"{len(missing)} of the model's weights are not in its file under the names that this transformers knows, "
            f"{missing[0]} for one; it was saved with transformers {config.transformers_version}: load it with that "
            "version, copy the folder again, or save it again where it was trained."
        )


def _account(tower, source, *, loaded=(), new=(), unused=()):
    return {
        "source": source,
        "model_type": tower.config.model_type,
        "parameters": sum(parameter.numel() for parameter in tower.parameters()),
        "loaded": list(loaded),
        "new": list(new),
        "unused": list(unused),
    }


def describe_towers(model, report) -> list[str]:
    """Say where every weight of a model came from.

    Args:
        model: `ClipScratchModel`.
        report: side -> account of its tower, as of `load_tower`.
    Returns: one line a part.
    """
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


def one_line(error):
    """What an error says, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def tower_class(config):
    """The class that `AutoModel` knows for a config."""
    if type(config) not in MODEL_MAPPING:
        raise ClipScratchError(
            f"model_type {config.model_type!r} is not an encoder that AutoModel knows; choose another tower."
        )
    try:
        model_class = MODEL_MAPPING[type(config)]
    except ValueError as error:  # transformers names some classes that it does not have
        raise ClipScratchError(f"model_type {config.model_type!r} has no class here; choose another tower.") from error
    return model_class[0] if isinstance(model_class, (list, tuple)) else model_class


def check_tower_type(config, side):
    """Check by its config and class alone that a tower can be the `text` or the `vision` tower of a model.

    Raises: ClipScratchError if its class is no encoder of that side's inputs alone, or has not one width for all
        tokens.
    """
    kind, (expected, modality, remedy) = config.model_type, _SIDES[side]
    part = getattr(config, f"{side}_config", None) if config.sub_configs else None
    if isinstance(part, PretrainedConfig):
        check_tower_type(part, side)
        raise ClipScratchError(
            f"{side} tower {kind!r} is a model of several towers; name the type of its {side} tower, "
            f"{part.model_type!r}, or give a folder or Hub id with its weights."
        )
    model_class = tower_class(config)
    try:
        main, modalities = model_class.main_input_name, model_class.input_modalities
    except ImportError as error:  # transformers puts a stand-in where a library is missing
        raise ClipScratchError(f"{side} tower {kind!r} cannot be used: {one_line(error)}") from error
    modalities = {modalities} if isinstance(modalities, str) else set(modalities)
    inputs = inspect.signature(model_class.forward).parameters.values()
    needed = [p.name for p in inputs if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD][1:]
    if main != expected or not modalities <= {modality, "text"}:  # "text" is what a class has that says nothing
        why = f"reads {', '.join([main] if isinstance(main, str) else main)} ({', '.join(sorted(modalities))})"
    elif getattr(config, "is_encoder_decoder", False):
        why = "is an encoder with a decoder, which needs inputs of its own"
    elif set(needed) - {expected}:
        why = f"needs {', '.join(name for name in needed if name != expected)} too"
    elif side == "text" and not hasattr(config, "max_position_embeddings"):
        why = "does not say how many tokens it reads (max_position_embeddings)"
    else:
        tower_width(config)
        return
    raise ClipScratchError(
        f"a model of type {kind!r} {why}, and a {side} tower is an encoder of {expected} alone; choose "
        f"another, for example {remedy}."
    )


def first_position(tower):
    """RoBERTa and its kin number positions from the one after the padding's number."""
    tables = (module for name, module in tower.named_modules() if name.split(".")[-1] == "position_embeddings")
    return next((table.padding_idx + 1 for table in tables if getattr(table, "padding_idx", None) is not None), 0)


def takes_pooler(model_class):
    """Whether towers of the class may be had without a pooling layer."""
    return "add_pooling_layer" in inspect.signature(model_class.__init__).parameters


def build_tower(config, pooling):
    """A tower from its config, without the pooling layer that it would never use (DDP wants every weight used).

    Raises: ClipScratchError if its class cannot be built from it.
    """
    extra = {"add_pooling_layer": pooling == "tower"} if takes_pooler(tower_class(config)) else {}
    try:
        return AutoModel.from_config(config, **extra)
    except Exception as error:  # of many kinds: each class checks its sizes, or needs a library, in its own way
        raise ClipScratchError(
            f"a tower of type {config.model_type!r} cannot be built from its config ({one_line(error)}); choose "
            "another tower."
        ) from error


def freeze_tower(tower, unfrozen_layers):
    """Takes the gradients from a tower, but for its last blocks and what follows them (final norm, pooling layer).

    Raises: ClipScratchError if the tower has fewer blocks.
    """
    if unfrozen_layers and hasattr(tower.config, "depths"):
        raise ClipScratchError(
            f"a {tower.config.model_type} tower is of stages, whose layers are in no one row; train all of it or none."
        )
    tower.requires_grad_(False)
    if unfrozen_layers:
        first = next(last_blocks(tower, unfrozen_layers)[0].parameters())
        learned = False
        for parameter in tower.parameters():  # in the order of their definition, which is that of their use
            learned = learned or parameter is first
            parameter.requires_grad_(learned)


def is_fixed(tower):
    """No weight of the tower is trained, so its states can be cached."""
    return not any(parameter.requires_grad for parameter in tower.parameters())


def last_blocks(tower, count):
    """The last `count` blocks of a tower, first to last; its blocks are its list of as many modules as
    the config has layers, else its longest list.

    Raises: ClipScratchError if it has fewer.
    """
    lists = [module for module in tower.modules() if isinstance(module, nn.ModuleList)]
    layers = None if hasattr(tower.config, "depths") else getattr(tower.config, "num_hidden_layers", None)
    # A mixture of experts may have more experts in a block than blocks.
    blocks = list(max(lists, key=lambda modules: (len(modules) == layers, len(modules)), default=[]))
    if count > len(blocks):
        raise ClipScratchError(
            f"{count} layers of a {tower.config.model_type} tower are to be trained, but it has {len(blocks)}; "
            f"choose at most {len(blocks)}."
        )
    return blocks[len(blocks) - count :]


def pool(output, attention_mask, pooling, state_norm):
    """One state a row from a tower's output.

    Args:
        output: tower output with `last_hidden_state` (B, T, W).
        attention_mask: (B, T), 1 for a token that counts in the mean; `None` counts all.
        pooling, state_norm: as in `ClipScratchConfig`.
    Returns: (B, D), D = W, or 2 W for `cls+mean`.
    Raises: ClipScratchError if the tower has no pooled output of its own and `tower` asks for it.
    """
    if pooling == "tower":
        if output.get("pooler_output") is None:
            raise ClipScratchError("pooling 'tower': this tower has no pooled output; choose cls, mean or cls+mean.")
        states = output.pooler_output
    else:
        tokens = output.last_hidden_state
        if attention_mask is None:
            mean = tokens.mean(1)
        else:
            weight = attention_mask.to(tokens.dtype)[..., None]
            mean = (tokens * weight).sum(1) / weight.sum(1)
        # DistilBERT has no pooler; the first token stands for the sentence.
        states = {"cls": [tokens[:, 0]], "mean": [mean], "cls+mean": [tokens[:, 0], mean]}[pooling]
        states = torch.cat(states, dim=-1)
    return nn.functional.normalize(states, dim=-1) if state_norm == "l2" else states
