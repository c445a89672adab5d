"""Nothing goes in; drawn pictures of two coloured shapes in a spatial relation come out as caption rows.

What a model must learn here is binding: which colour goes with which shape, and which of the two is where. So the
splits share no combination of (object, relation, object), though every object is in every split's vocabulary.
"""

import itertools
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from .rows import Rows
from .splits import Readers, hash_of

IMAGE_SIZE = 32  # pixels
# Well apart in hue and in lightness, so that red-green blind people tell them apart too.
COLOURS = {
    "red": (206, 38, 38),
    "green": (0, 158, 115),
    "blue": (48, 92, 236),
    "yellow": (248, 228, 66),
    "pink": (246, 150, 206),
    "white": (250, 250, 250),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring")
# {a} is on the left or above. "B right of A" is "A left of B" in other words, so two relations are enough.
CAPTIONS = {
    "left": (
        "a {a} to the left of a {b}",
        "a {b} to the right of a {a}",
        "there is a {a}, and to its right a {b}",
        "on the left a {a}, on the right a {b}",
        "a {b} with a {a} on its left",
    ),
    "above": (
        "a {a} above a {b}",
        "a {b} below a {a}",
        "there is a {a}, and under it a {b}",
        "at the top a {a}, at the bottom a {b}",
        "a {b} with a {a} over it",
    ),
}

_VERSION = 1  # goes up when the pictures, captions, keys or splits change
_SEED = 0  # the set is the same for everybody: no user's seed changes it
_TEST_COMBINATIONS, _VALIDATION_COMBINATIONS = 500, 100
_PICTURES = {"train": 22, "validation": 1, "test": 1}  # of each combination
_GRID = np.arange(IMAGE_SIZE, dtype=np.float32) + 0.5  # centres of the pixels


class Combination(NamedTuple):
    """Two different objects and a relation: `first` is to the left of `second`, or above it."""

    first: tuple[str, str]  # colour, shape
    relation: str
    second: tuple[str, str]

    @property
    def name(self) -> str:
        return "-".join([*self.first, self.relation, *self.second])

    @property
    def captions(self) -> list[str]:
        return [text.format(a=" ".join(self.first), b=" ".join(self.second)) for text in CAPTIONS[self.relation]]


@lru_cache(maxsize=1)
def combinations() -> dict[str, list[Combination]]:
    """All 1,740 combinations by split: 1,140 train, 100 validation, 500 test."""
    objects = list(itertools.product(COLOURS, SHAPES))
    every = [
        Combination(first, relation, second)
        for first, second in itertools.permutations(objects, 2)
        for relation in CAPTIONS
    ]
    every.sort(key=lambda combination: hash_of(_SEED, combination.name))
    held = _TEST_COMBINATIONS + _VALIDATION_COMBINATIONS
    return {
        "test": every[:_TEST_COMBINATIONS],
        "validation": every[_TEST_COMBINATIONS:held],
        "train": every[held:],
    }


def scenes_readers() -> Readers:
    """Train has many pictures of each combination; validation and test have one, so each caption fits one picture."""
    return {split: partial(_read_scenes, split) for split in ("train", "validation", "test")}


def _read_scenes(split: str) -> Rows:
    chosen = combinations()[split]
    # Picture by picture, so that any prefix of the split holds as many combinations as it can.
    pairs = [(combination, copy) for copy in range(_PICTURES[split]) for combination in chosen]
    captions = {combination: combination.captions for combination in chosen}
    return Rows(
        name="scenes",
        split=split,
        kind="caption",
        keys=[f"scenes-{combination.name}-{copy:02d}" for combination, copy in pairs],
        read_image=partial(_read_scene, split),
        captions=[captions[combination] for combination, _ in pairs],
        origin=f"drawn from seed {_SEED}",
        fingerprint=f"scenes-{_VERSION}-{split}",
    )


def _read_scene(split: str, index: int) -> np.ndarray:
    chosen = combinations()[split]
    return draw_scene(chosen[index % len(chosen)], copy=index // len(chosen))


def draw_scene(combination: Combination, *, copy: int) -> np.ndarray:
    """Draws a combination at a place, in sizes and on a background that depend on (combination, copy) alone.

    Returns:
        (32, 32, 3) uint8. The two objects are side by side along the relation's axis, never touching, and no further
        apart across it than a fraction of their size: the picture shows one relation, not two.
    """
    generator = np.random.default_rng(hash_of(_SEED, f"{combination.name}-{copy}"))
    draw = generator.uniform(size=9)
    sizes = 4.6 + 1.8 * draw[:2]  # radius, pixels
    gap = 1.0 + 2.5 * draw[2]
    length = 2 * sizes.sum() + gap
    start = 0.5 + (IMAGE_SIZE - 1 - length) * draw[3]
    along = np.array([start + sizes[0], start + length - sizes[1]])
    across = 9.0 + (IMAGE_SIZE - 18.0) * draw[4] + 3.0 * (draw[5:7] - 0.5)
    canvas = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), 28.0 + 30.0 * draw[7], dtype=np.float32)
    shades = 1.0 - 0.12 * np.array([draw[8], 1.0 - draw[8]])
    for (colour, shape), a, c, size, shade in zip(
        (combination.first, combination.second), along, across, sizes, shades, strict=True
    ):
        x, y = (a, c) if combination.relation == "left" else (c, a)
        covered = _coverage(shape, x, y, size)[:, :, None]
        canvas += covered * (np.asarray(COLOURS[colour], dtype=np.float32) * np.float32(shade) - canvas)
    return np.round(canvas).astype(np.uint8)


def _coverage(shape: str, x: float, y: float, size: float) -> np.ndarray:
    """(32, 32) share of each pixel inside the shape: its signed distance to the edge, clipped to one pixel."""
    across = np.abs(_GRID[None, :] - np.float32(x)) / np.float32(size)  # every shape is symmetric left to right
    down = (_GRID[:, None] - np.float32(y)) / np.float32(size)
    if shape == "circle":
        distance = np.hypot(across, down) - 1.0
    elif shape == "ring":
        distance = np.abs(np.hypot(across, down) - 0.74) - 0.26
    elif shape == "square":
        distance = np.maximum(across, np.abs(down)) - 0.86
    elif shape == "cross":
        down = np.abs(down)
        distance = np.minimum(np.maximum(across - 0.3, down - 1.0), np.maximum(across - 1.0, down - 0.3))
    else:  # an upright triangle: apex (0, -1), base from (-1, 0.8) to (1, 0.8)
        distance = np.maximum((1.8 * across - (down + 1.0)) / np.hypot(1.8, 1.0), down - 0.8)
    return np.clip(0.5 - distance * np.float32(size), 0.0, 1.0).astype(np.float32)
