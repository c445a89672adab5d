"""Check, before training, that the pooled features of a tower depend on its input and on nothing else."""

import math

import torch

from .errors_clipscratch import ClipScratchError
from .towers_clipscratch import first_position, one_line, pool

# Relative distance of two feature vectors: below the first they are the same, above the second they differ (float32).
_SAME, _APART = 1e-6, 1e-3


@torch.no_grad()
def check_text_tower(tower, pooling, tokenizer):
    """Encode texts that differ in one word, alone and beside a longer text.

    Args:
        tower: text tower.
        pooling: as in `ClipScratchConfig`.
        tokenizer: of the texts.

    Raises:
        ClipScratchError: If the tower cannot read such texts, two texts get the same features, one text gets different
            ones, or the tokenizer does not fit the tower.
    """
    what, name = f"text_pooling {pooling!r}: a {tower.config.model_type}", _name(tokenizer)
    largest, rows = max(tokenizer.get_vocab().values()), getattr(tower.config, "vocab_size", math.inf)
    if largest >= rows:
        raise ClipScratchError(
            f"the tokenizer ({name}) has tokens up to number {largest}, and the text tower's table holds {rows} (0 to "
            f"{rows - 1}); give the tokenizer that the tower was trained with."
        )
    front, words, back = _tokens(tokenizer)
    if pooling in ("cls", "cls+mean") and not front:
        raise ClipScratchError(
            f"text_pooling {pooling!r} takes the first token, and the tokenizer ({name}) puts none of its own before "
            "the words of a text; choose mean."
        )
    longest = tower.config.max_position_embeddings - first_position(tower) - len(front) - len(back)
    if len(words) < 2 or longest < 2:
        return
    # The largest number comes first: some CLIPs take it for the end of the text.
    other, first = words[0], words[-1]
    rest = [other] * (min(4, longest) - 2)
    texts = [[*front, *text, *back] for text in ([first, *rest, other], [other, *rest, other], [first, *rest, first])]
    pad = tokenizer.pad_token_id or 0
    alone = _text_features(tower, pooling, texts, pad)
    text, *others = alone[:, : tower.config.hidden_size]  # of cls+mean the first half
    if min(_distance(text, other) for other in others) < _SAME:
        if pooling == "tower":
            raise ClipScratchError(
                f"{what} pools one token of the text (eos_token_id={getattr(tower.config, 'eos_token_id', None)}), "
                f"which the tokenizer ({name}) does not put at its end, so that different texts get the same "
                "features; choose mean, or the tower's own tokenizer."
            )
        raise ClipScratchError(
            f"{what} reads from left to right, so its first token is the same for every text; choose mean, or tower "
            "for a CLIP's."
        )
    beside = _text_features(tower, pooling, [*texts, [*front, *[other] * min(9, longest), *back]], pad)
    if max(map(_distance, alone, beside)) > _APART:
        raise ClipScratchError(
            f"{what} gives a text other features where its batch holds a longer one, since it reads the padding too; "
            "choose another text tower, for example distilbert, bert or roberta."
        )


@torch.no_grad()
def check_vision_tower(tower, pooling, image_size):
    """Encode two different images, one of them twice.

    Args:
        tower: vision tower.
        pooling: as in `ClipScratchConfig`.
        image_size: height and width in pixels.

    Raises:
        ClipScratchError: If the tower cannot read such images, two images get the same features, one gets different
            ones, or `pooling` takes a class token and there is none.
    """
    what, (height, width) = f"vision_pooling {pooling!r}: a {tower.config.model_type}", image_size
    dark = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0)) - 1
    tokens, features = _run(tower, "vision", pooling, pixel_values=torch.stack([dark, dark + 1, dark]))
    if _distance(features[0], features[2]) > _APART:
        raise ClipScratchError(
            f"{what} gives one image different features, since it leaves parts out at random; choose another."
        )
    patch = getattr(tower.config, "patch_size", None)
    edges = patch if isinstance(patch, (list, tuple)) else (patch, patch)
    is_cut = all(isinstance(edge, int) for edge in edges)
    patches = (height // edges[0]) * (width // edges[1]) if is_cut else math.inf
    if pooling in ("cls", "cls+mean") and tokens <= patches:
        raise ClipScratchError(
            f"{what} has no class token, so its first token is a patch in a corner of the image; choose mean, or tower "
            "where it pools by itself."
        )
    if _distance(features[0], features[1]) < _SAME:
        raise ClipScratchError(f"{what} gives two images the same features; choose another pooling.")


def _name(tokenizer):
    return tokenizer.name_or_path or type(tokenizer).__name__


def _tokens(tokenizer):
    """Return the tokens that a tokenizer puts before a text, those of words, and those that it puts after a text."""
    encoded = tokenizer("a b c d", return_special_tokens_mask=True)
    ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
    start = special.index(0) if 0 in special else len(ids)
    stop = len(ids) - (special[::-1].index(0) if 0 in special else 0)
    words = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
    return ids[:start], words, ids[stop:]


def _text_features(tower, pooling, texts, pad):
    length = max(map(len, texts))
    ids = torch.tensor([text + [pad] * (length - len(text)) for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in texts])
    return _run(tower, "text", pooling, input_ids=ids, attention_mask=mask)[1]


def _run(tower, side, pooling, **inputs):
    """Return the number of tokens and the pooled features (B, D) in float64."""
    kind, width, modes = tower.config.model_type, tower.config.hidden_size, [(m, m.training) for m in tower.modules()]
    tower.eval()
    versions = [parameter._version for parameter in tower.parameters()]
    inputs = {name: t.to(tower.device, tower.dtype if t.is_floating_point() else None) for name, t in inputs.items()}
    try:
        with torch.random.fork_rng(devices=[]):
            output = tower(**inputs, return_dict=True)
        tokens, rows = output.last_hidden_state, len(next(iter(inputs.values())))
    except Exception as error:  # a class raises anything for inputs that it is not made for
        raise ClipScratchError(
            f"a {kind} cannot be the {side} tower, since it does not read {' and '.join(inputs)} alone "
            f"({one_line(error)})."
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode
    if versions != [parameter._version for parameter in tower.parameters()]:
        raise ClipScratchError(f"a {kind} cannot be the {side} tower, since it changes its weights when it reads.")
    features = pool(output, inputs.get("attention_mask"), pooling, "none") if tokens.dim() == 3 else tokens
    expected = (rows, width * (2 if pooling == "cls+mean" else 1))
    if tuple(tokens.shape[::2]) != (rows, width) or tuple(features.shape) != expected:
        raise ClipScratchError(
            f"a {kind} cannot be the {side} tower under {side}_pooling {pooling!r}: it gives {tuple(tokens.shape)} for "
            f"{rows} inputs, pooled {tuple(features.shape)}, in place of (inputs, tokens, {width}), pooled {expected}."
        )
    return tokens.shape[1], features.double()


def _distance(features, others):
    return ((features - others).norm() / features.norm()).item()
