"""uint8 pictures and their sample ids go in; each after one random operation at one random strength comes out."""

import math

import torch

from .randomness import uniform

_WHETHER, _WHICH, _LEVEL, _SIGN = range(30, 34)  # draw numbers, apart from those of the augmentation and of mixing
_LEVELS = 30  # strengths above none
# By Python, not by the device: sines that differ in the last bit would take other pixels here and there.
_TURNS = [(math.cos(angle), math.sin(angle)) for angle in (math.radians(135 / _LEVELS * level) for level in range(31))]


def trivial_augment(
    images: torch.Tensor, samples: torch.Tensor, may_turn: torch.Tensor, *, probability: float
) -> torch.Tensor:
    """TrivialAugment with its wide range of strengths: of 14 operations one, at one of 31 strengths, all drawn evenly.

    Rounded as Pillow rounds; what lies outside of a moved picture is black, and its pixels are the nearest ones.
    Brightness, colour, contrast, solarize and others change colours: captions that name them suffer.

    Args:
        images: uint8 (B, H, W, 3).
        samples: (B,) int64 from `sample_ids`.
        may_turn: (B,) bool, False where the caption speaks of left or right; there is no shear and no rotation.
        probability: of an operation, of which one changes nothing.
    Returns: uint8 (B, H, W, 3). The counts of the operations are read from the device: one wait a call.
    Source: Müller and Hutter 2021, arXiv 2103.10158; 32 pixels of translation are at most the picture's own size.

    >>> images, samples = torch.randint(256, (50, 8, 8, 3), dtype=torch.uint8), torch.arange(50)
    >>> made = trivial_augment(images, samples, torch.ones(50, dtype=torch.bool), probability=0.5)
    >>> 10 < (made != images).any((1, 2, 3)).sum() < 40
    tensor(True)
    """
    chosen = (uniform(samples, _WHETHER) < probability).long() * (uniform(samples, _WHICH) * len(OPERATIONS)).long()
    chosen = chosen.masked_fill(~may_turn & (chosen >= OPERATIONS.index(_shear_x)), 0)
    sign = torch.where(uniform(samples, _SIGN) < 0.5, -1, 1)
    level = sign * (uniform(samples, _LEVEL) * (_LEVELS + 1)).floor()
    order = chosen.argsort(stable=True)  # pictures of one operation lie together
    each = torch.arange(len(OPERATIONS), device=chosen.device)
    counts = (chosen[:, None] == each).sum(0).tolist()
    # `index_select` copies whole pictures, or pixels, where the index's brackets would copy bytes.
    parts = zip(OPERATIONS, images.index_select(0, order).split(counts), level[order].split(counts), strict=True)
    made = [operation(part, at[:, None, None]) for operation, part, at in parts if len(part)]
    return torch.cat(made).index_select(0, order.argsort())


# Each operation: uint8 (n, H, W, 3) and (n, 1, 1) levels, -30 to 30, to uint8 (n, H, W, 3).


def _identity(pictures, level):
    return pictures


def _brightness(pictures, level):
    return _away_from(torch.zeros_like(pictures), pictures, level)


def _colour(pictures, level):
    return _away_from(_grey(pictures), pictures, level)


def _contrast(pictures, level):
    grey = _grey(pictures).flatten(1)
    count = grey.shape[1]
    mean = (2 * grey.sum(1) + count) // (2 * count)
    return _away_from(mean[:, None, None, None], pictures, level)


def _sharpness(pictures, level):
    whole = pictures.int()
    rows = whole[:, :-2] + whole[:, 1:-1] + whole[:, 2:]
    box = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    smooth = whole.clone()  # Pillow leaves the edge as it is
    smooth[:, 1:-1, 1:-1] = (box + 4 * whole[:, 1:-1, 1:-1] + 6) // 13
    return _away_from(smooth, pictures, level)


def _posterize(pictures, level):
    bits = (level[..., None].abs() / 5).round().to(torch.uint8)  # 0 to 6 are lost
    return pictures >> bits << bits


def _solarize(pictures, level):
    return torch.where(pictures < 255 - 8.5 * level[..., None].abs(), pictures, 255 - pictures)


def _autocontrast(pictures, level):
    low, high = pictures.amin((1, 2), keepdim=True).int(), pictures.amax((1, 2), keepdim=True).int()
    stretched = (pictures - low) * 255 // (high - low).clamp(min=1)
    return torch.where(high > low, stretched, pictures).to(torch.uint8)


def _equalize(pictures, level):
    values = pictures.flatten(1, 2).mT.long()
    count = values.new_zeros(*values.shape[:2], 256).scatter_add_(-1, values, torch.ones_like(values))
    each = torch.arange(256, device=values.device)
    below = count.cumsum(-1) - count  # how many pixels are darker than each value
    step = below.gather(-1, values.amax(-1, keepdim=True)) // 255
    flat = torch.where(step > 0, (below + step // 2) // step.clamp(min=1), each).clamp(max=255).to(torch.uint8)
    return flat.gather(-1, values).mT.reshape(pictures.shape)


def _translate_x(pictures, level):
    x, y = _centres(pictures)
    return _pixels_at(pictures, x + level * (min(32, pictures.shape[2]) / _LEVELS), y)


def _translate_y(pictures, level):
    x, y = _centres(pictures)
    return _pixels_at(pictures, x, y + level * (min(32, pictures.shape[1]) / _LEVELS))


def _shear_x(pictures, level):
    x, y = _centres(pictures)
    return _pixels_at(pictures, x + level * (0.99 / _LEVELS) * y, y)


def _shear_y(pictures, level):
    x, y = _centres(pictures)
    return _pixels_at(pictures, x, y + level * (0.99 / _LEVELS) * x)


def _rotate(pictures, level):
    cosine, sine = torch.tensor(_TURNS, device=pictures.device)[level.long().abs()].unbind(-1)
    sine = sine * level.sign()
    middle_y, middle_x = (edge / 2 for edge in pictures.shape[1:3])
    x, y = _centres(pictures)
    x, y = x - middle_x, y - middle_y
    return _pixels_at(pictures, cosine * x - sine * y + middle_x, sine * x + cosine * y + middle_y)


# Those that turn directions are the last.
OPERATIONS = (
    _identity, _brightness, _colour, _contrast, _sharpness, _posterize, _solarize, _autocontrast, _equalize,
    _translate_x, _translate_y, _shear_x, _shear_y, _rotate,
)  # fmt: skip


def _away_from(other, pictures, level):
    """Between `other`, at -30, and as far on the other side of the picture, at 30; nearly."""
    factor = 1 + level[..., None] * (0.99 / _LEVELS)
    return (other + factor * (pictures - other.float())).clamp(0, 255).to(torch.uint8)


def _grey(pictures):
    """(n, H, W, 1) int32, rounded as Pillow's mode L."""
    red, green, blue = pictures.int().split(1, -1)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def _centres(pictures):
    """(1, 1, W) x and (1, H, 1) y of the pixels."""
    y, x = (torch.arange(edge, device=pictures.device) + 0.5 for edge in pictures.shape[1:3])
    return x[None, None], y[None, :, None]


def _pixels_at(pictures, x, y):
    """The pixels around the places x and y, each broadcast to (n, H, W); black where there are none."""
    height, width = pictures.shape[1:3]
    x, y = x.floor().long(), y.floor().long()
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    row = torch.arange(len(pictures), device=pictures.device)[:, None, None] * height + y.clamp(0, height - 1)
    places = row * width + x.clamp(0, width - 1)
    return pictures.reshape(-1, 3).index_select(0, places.flatten()).view(pictures.shape) * inside[..., None]
