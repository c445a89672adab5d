"""Check, before anything is trained, that a tower's pooled state depends on its input and on nothing else."""

import math

import torch

from .errors_clipscratch import ClipScratchError
from .towers_clipscratch import first_position, one_line, pool

# Relative distance of two states: below the first they are the same, above the second they are not (float32).
_SAME, _APART = 1e-6, 1e-3


@torch.no_grad()
def check_text_tower(tower, pooling, tokenizer):
    """Let a text tower read texts that differ in one word, alone and beside a longer text.

    Args:
        tower: text tower.
        pooling: as in `ClipScratchConfig`.
        tokenizer: of the texts.
    Raises: ClipScratchError if the tower cannot read such texts, two texts get one state or one text gets two, or the
        tokenizer does not fit the tower.
    """
    what = f"text_pooling {pooling!r}: a {tower.config.model_type}"
    _check_vocabulary(tower, tokenizer)
    front, words, back = _tokens(tokenizer)
    pad = tokenizer.pad_token_id or 0
    if pooling in ("cls", "cls+mean") and not front:
        raise ClipScratchError(
            f"text_pooling {pooling!r} takes the first token, and the tokenizer ({_name(tokenizer)}) puts none of "
            "its own before the words of a text; choose mean."
        )
    room = tower.config.max_position_embeddings - first_position(tower) - len(front) - len(back)
    if len(words) < 2 or room < 2:
        return
    # The largest number comes first: some CLIPs take it for the end of the text.
    other, first = words[0], words[-1]
    rest = [other] * (min(4, room) - 2)
    texts = [[*front, *text, *back] for text in ([first, *rest, other], [other, *rest, other], [first, *rest, first])]
    alone = _text_states(tower, pooling, texts, pad)
    text, *others = alone[:, : tower.config.hidden_size]  # of cls+mean the first half
    if min(_distance(text, other) for other in others) < _SAME:
        if pooling == "tower":
            raise ClipScratchError(
                f"{what} takes the state of one token for the text (eos_token_id="
                f"{getattr(tower.config, 'eos_token_id', None)}), which the tokenizer ({_name(tokenizer)}) does not "
                "put at its end, so that texts that differ get the same state; choose mean, or the tower's own "
                "tokenizer."
            )
        raise ClipScratchError(
            f"{what} reads from left to right, so its first token is the same for every text; choose mean, or tower "
            "for a CLIP's."
        )
    beside = _text_states(tower, pooling, [*texts, [*front, *[other] * min(9, room), *back]], pad)
    if max(map(_distance, alone, beside)) > _APART:
        raise ClipScratchError(
            f"{what} gives a text another state where its batch holds a longer one, since it reads the padding too; "
            "choose another text tower, for example distilbert, bert or roberta."
        )


@torch.no_grad()
def check_vision_tower(tower, pooling, image_size):
    """Let a vision tower read two images that differ, one of them twice.

    Args:
        tower: vision tower.
        pooling: as in `ClipScratchConfig`.
        image_size: height and width in pixels.
    Raises: ClipScratchError if the tower cannot read such images, two of them get one state or one gets two, or
        `pooling` takes a class token and there is none.
    """
    what, (height, width) = f"vision_pooling {pooling!r}: a {tower.config.model_type}", image_size
    dark = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0)) - 1
    tokens, states = _run(tower, "vision", pooling, pixel_values=torch.stack([dark, dark + 1, dark]))
    if _distance(states[0], states[2]) > _APART:
        raise ClipScratchError(
            f"{what} gives one image two states, since it leaves parts out at random; choose another."
        )
    if pooling in ("cls", "cls+mean") and tokens <= _patches(tower.config, height, width):
        raise ClipScratchError(
            f"{what} has no class token, so its first token is a patch in a corner of the image; choose mean, or tower "
            "where it pools by itself."
        )
    if _distance(states[0], states[1]) < _SAME:
        raise ClipScratchError(f"{what} gives two images the same state; choose another pooling.")


def _check_vocabulary(tower, tokenizer):
    largest, rows = max(tokenizer.get_vocab().values()), getattr(tower.config, "vocab_size", math.inf)
    if largest >= rows:
        raise ClipScratchError(
            f"the tokenizer ({_name(tokenizer)}) has tokens up to number {largest}, and the text tower's table holds "
            f"{rows} (0 to {rows - 1}); give the tokenizer that the tower was trained with."
        )


def _name(tokenizer):
    return tokenizer.name_or_path or type(tokenizer).__name__


def _tokens(tokenizer):
    """The tokens that a tokenizer puts before a text, those for words, and those that it puts after a text."""
    encoded = tokenizer("a b c d", return_special_tokens_mask=True)
    ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
    start = special.index(0) if 0 in special else len(ids)
    stop = len(ids) - (special[::-1].index(0) if 0 in special else 0)
    words = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
    return ids[:start], words, ids[stop:]


def _text_states(tower, pooling, texts, pad):
    length = max(map(len, texts))
    ids = torch.tensor([text + [pad] * (length - len(text)) for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in texts])
    return _run(tower, "text", pooling, input_ids=ids, attention_mask=mask)[1]


def _run(tower, side, pooling, **inputs):
    """(Number of tokens, pooled states (B, D) in float64)."""
    kind, width, modes = tower.config.model_type, tower.config.hidden_size, [(m, m.training) for m in tower.modules()]
    tower.eval()
    versions = [parameter._version for parameter in tower.parameters()]
    inputs = {name: t.to(tower.device, tower.dtype if t.is_floating_point() else None) for name, t in inputs.items()}
    try:
        with torch.random.fork_rng(devices=[]):
            output = tower(**inputs, return_dict=True)
        tokens, rows = output.last_hidden_state, len(next(iter(inputs.values())))
    except Exception as error:  # of many kinds: whatever a class raises at inputs that it is not made for
        raise ClipScratchError(
            f"a {kind} cannot be the {side} tower, since it does not read {' and '.join(inputs)} alone "
            f"({one_line(error)})."
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode
    if versions != [parameter._version for parameter in tower.parameters()]:
        raise ClipScratchError(f"a {kind} cannot be the {side} tower, since it changes its weights when it reads.")
    states = pool(output, inputs.get("attention_mask"), pooling, "none") if tokens.dim() == 3 else tokens
    expected = (rows, width * (2 if pooling == "cls+mean" else 1))
    if tuple(tokens.shape[::2]) != (rows, width) or tuple(states.shape) != expected:
        raise ClipScratchError(
            f"a {kind} cannot be the {side} tower under {side}_pooling {pooling!r}: it gives {tuple(tokens.shape)} for "
            f"{rows} inputs, pooled {tuple(states.shape)}, in place of (inputs, tokens, {width}), pooled {expected}."
        )
    return tokens.shape[1], states.double()


def _distance(state, other):
    return ((state - other).norm() / state.norm()).item()


def _patches(config, height, width):
    """How many patches an image is cut into; without limit where the config does not say."""
    patch = getattr(config, "patch_size", None)
    edges = patch if isinstance(patch, (list, tuple)) else (patch, patch)
    return (height // edges[0]) * (width // edges[1]) if all(isinstance(e, int) for e in edges) else math.inf
