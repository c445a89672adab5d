"""Check, before training, that the pooled features of a tower depend on its input and on nothing else."""

import math

import torch

from .errors_clipscratch import ClipScratchError
from .towers_clipscratch import first_position, one_line, pool

# Relative distance of two feature vectors: below the first they are the same, above the second they differ (float32).
_SAME, _APART = 1e-6, 1e-3


@torch.no_grad()
def check_text_tower(tower, pooling, tokenizer):
    """Encode texts that differ in one word, alone and beside a longer text; raise for features that do not fit them."""
    what = f"text_pooling {pooling!r}: a {tower.config.model_type}"
    name = tokenizer.name_or_path or type(tokenizer).__name__
    largest, rows = max(tokenizer.get_vocab().values()), getattr(tower.config, "vocab_size", math.inf)
    if largest >= rows:
        raise ClipScratchError(
            f"the tokenizer ({name}) has tokens up to number {largest}, and the text tower's table holds {rows} (0 to "
            f"{rows - 1}); give the tokenizer that the tower was trained with."
        )
    encoded = tokenizer("a b c d", return_special_tokens_mask=True)
    ids, inside = encoded["input_ids"], [n for n, special in enumerate(encoded["special_tokens_mask"]) if not special]
    front, back = (ids[: inside[0]], ids[inside[-1] + 1 :]) if inside else (ids, [])
    words = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
    longest = tower.config.max_position_embeddings - first_position(tower) - len(front) - len(back)
    if len(words) < 2 or longest < 2:
        return
    # The largest number comes first: some CLIPs take it for the end of the text.
    other, first = words[0], words[-1]
    rest = [other] * (min(4, longest) - 2)
    texts = [[first, *rest, other], [other, *rest, other], [first, *rest, first], [other] * min(9, longest)]
    texts = [[*front, *text, *back] for text in texts]

    def features_of(texts):
        length, pad = max(map(len, texts)), tokenizer.pad_token_id or 0
        ids = torch.tensor([text + [pad] * (length - len(text)) for text in texts])
        mask = torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in texts])
        return _run(tower, "text", pooling, input_ids=ids, attention_mask=mask)[1]

    alone, beside = features_of(texts[:3]), features_of(texts)
    text, *others = alone[:, : tower.config.hidden_size]  # of cls+mean the first half
    if min(_distance(text, other) for other in others) < _SAME:
        raise ClipScratchError(
            f"{what} gives texts that differ in one word the same features: it reads from left to right and the first "
            f"token is taken, or the token that it pools is not what the tokenizer ({name}) puts at the end of a text; "
            "choose mean, or the tower's own tokenizer with tower."
        )
    if max(map(_distance, alone, beside)) > _APART:
        raise ClipScratchError(
            f"{what} gives a text other features where its batch holds a longer one, since it reads the padding too; "
            "choose another text tower, for example distilbert, bert or roberta."
        )


@torch.no_grad()
def check_vision_tower(tower, pooling, image_processor):
    """Encode two images of other shapes, one of them twice; raise for features that do not fit them."""
    what, draw = f"vision_pooling {pooling!r}: a {tower.config.model_type}", torch.Generator().manual_seed(0)
    sizes = (3, 48, 96), (3, 96, 48)
    dark, bright = (torch.randint(0, 128, size, dtype=torch.uint8, generator=draw) for size in sizes)
    try:
        images = [dark, bright + 128, dark]
        pixels = [image_processor(image, return_tensors="pt")["pixel_values"] for image in images]
        made = f"it makes {tuple(pixels[0].shape)} and {tuple(pixels[1].shape)}"
        fits = pixels[0].dim() == 4 and pixels[0].shape == pixels[1].shape and pixels[0].shape[:2] == (1, 3)
    except Exception as error:  # processors of patches, tiles, pairs or videos fail each in its own way
        made, fits = one_line(error), False
    if not fits:
        raise ClipScratchError(
            f"the image processor {type(image_processor).__name__} does not make one image of three channels and of "
            f"one shape ({made}); give size a height and a width, or crop_size with do_center_crop, or give a tower "
            "with such an image processor, such as a ViT, DINOv2 or CLIP."
        )
    height, width = pixels[0].shape[2:]
    tokens, features = _run(tower, "vision", pooling, pixel_values=torch.cat(pixels))
    if _distance(features[0], features[2]) > _APART:
        raise ClipScratchError(
            f"{what} gives one image different features, since it leaves parts out at random; choose another."
        )
    patch = getattr(tower.config, "patch_size", None)
    if pooling in ("cls", "cls+mean") and isinstance(patch, int) and tokens <= (height // patch) * (width // patch):
        raise ClipScratchError(
            f"{what} has no class token, so its first token is a patch in a corner of the image; choose mean, or tower "
            "where it pools by itself."
        )
    if _distance(features[0], features[1]) < _SAME:
        raise ClipScratchError(f"{what} gives two images the same features; choose another pooling.")


def _run(tower, side, pooling, **inputs):
    """Return the number of tokens and the pooled features (B, D) in float64."""
    kind, width = tower.config.model_type, tower.config.hidden_size
    inputs = {name: t.to(tower.device, tower.dtype if t.is_floating_point() else None) for name, t in inputs.items()}
    rows, refused = len(next(iter(inputs.values()))), f"a {kind} cannot be the {side} tower"
    try:
        with torch.random.fork_rng(devices=[]):
            output = tower.eval()(**inputs, return_dict=True)
        shape = tuple(output.last_hidden_state.shape)
    except Exception as error:  # a class raises anything for inputs that it is not made for
        what = f"it does not read {' and '.join(inputs)} alone ({one_line(error)})"
        raise ClipScratchError(f"{refused}, since {what}.") from error
    if len(shape) != 3 or (shape[0], shape[2]) != (rows, width):
        raise ClipScratchError(
            f"{refused}: it gives {shape} for {rows} inputs, in place of (inputs, tokens, {width}); choose another."
        )
    features = pool(output, inputs.get("attention_mask"), pooling, "none")
    if tuple(features.shape) != (rows, width * (2 if pooling == "cls+mean" else 1)):
        raise ClipScratchError(f"{refused} with {side}_pooling {pooling!r}, which gives {tuple(features.shape)}.")
    return shape[1], features.double()


def _distance(features, others):
    return ((features - others).norm() / features.norm()).item()
