"""The built-in datasets: 1,797 handwritten digits, and scenes of two or three coloured shapes with captions."""

import itertools
from functools import lru_cache, partial
from typing import NamedTuple

import datasets
import numpy as np

from ...utils.errors import ClipScratchError
from ..columns import DataOptions
from ..dataset import build_dataset, image_bytes, ppm
from ..splits import Source, Split, hash_of

_SEED = 0  # the datasets are the same for everybody: no user's seed changes them

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = (
    "a photo of the digit {}.",
    "the digit {}.",
    "a handwritten {}.",
    "the number {}.",
    "a scan of the number {}, written by hand.",
    "somebody wrote the digit {}.",
)

_BOUNDS = (36, 36 + 18)  # of each class: 36 rows of test, 18 of validation, the rest of train


def digits_source(options: DataOptions) -> Source:
    """Return train, validation and test of 1,257, 180 and 360 rows, balanced by class.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998, by scikit-learn.
    """
    names = list(options.class_names or CLASS_NAMES)
    if len(names) != len(CLASS_NAMES):
        raise ClipScratchError(f"digits: {len(names)} class names for {len(CLASS_NAMES)} classes; give one for each.")
    return {
        split: Split(partial(_read_digits, number, names), "scikit-learn's load_digits", templates=TEMPLATES)
        for split, number in {"train": 2, "validation": 1, "test": 0}.items()
    }


def _read_digits(split: int, names: list[str]) -> datasets.Dataset:
    from sklearn.datasets import load_digits  # slow to import

    bunch, generator = load_digits(), np.random.default_rng(_SEED)
    rows = [generator.permutation(np.flatnonzero(bunch.target == label)) for label in range(len(CLASS_NAMES))]
    chosen = np.sort(np.concatenate([np.split(own, _BOUNDS)[split] for own in rows]))
    grey = np.round(bunch.images[chosen] * (255 / 16)).astype(np.uint8)  # 17 levels, 0 to 16
    return build_dataset(
        image_bytes([ppm(np.repeat(image[:, :, None], 3, axis=2)) for image in grey]),
        [f"digits-{row:04d}" for row in chosen],
        labels=bunch.target[chosen],
        class_names=names,
    )


# Scenes. A model must learn binding here: which colour belongs to which shape, and which shape is where. So the splits
# share no combination of objects and relation, but the words of every split name every object.

IMAGE_SIZE = 32  # pixels
# They differ in hue and in lightness, so that red-green blind people can distinguish them.
COLOURS = {
    "red": (206, 38, 38),
    "green": (0, 158, 115),
    "blue": (48, 92, 236),
    "yellow": (248, 228, 66),
    "pink": (246, 150, 206),
    "white": (250, 250, 250),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring")
# {a} is on the left or above. "B right of A" means "A left of B", so two relations of two objects are enough.
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
    "row": (
        "a {a}, a {b} and a {c} from left to right",
        "a {b} between a {a} on the left and a {c} on the right",
        "on the left a {a}, in the middle a {b}, on the right a {c}",
        "a {c} to the right of a {b}, which is to the right of a {a}",
        "there are a {a}, then a {b}, then a {c}",
    ),
}

_COMBINATIONS = {"test": (450, 50), "validation": (90, 10), "train": (1200, 240)}  # of two objects, of three
_COPIES = {"train": 22, "validation": 1, "test": 1}  # of each combination
_GRID = np.arange(IMAGE_SIZE, dtype=np.float32) + 0.5  # centres of the pixels


class Combination(NamedTuple):
    """Two or three different objects, each (colour, shape), from left to right or from top to bottom."""

    relation: str
    objects: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        return "-".join([self.relation, *(part for thing in self.objects for part in thing)])

    @property
    def captions(self) -> list[str]:
        words = {letter: " ".join(thing) for letter, thing in zip("abc", self.objects, strict=False)}
        return [text.format(**words) for text in CAPTIONS[self.relation]]


@lru_cache(maxsize=1)
def combinations() -> dict[str, list[Combination]]:
    """Return by split all 1,740 combinations of two objects, and 300 of the 24,360 of three."""
    objects = list(itertools.product(COLOURS, SHAPES))
    pairs = [Combination(relation, two) for two in itertools.permutations(objects, 2) for relation in ("left", "above")]
    triples = [Combination("row", three) for three in itertools.permutations(objects, 3)]
    pairs, triples = (sorted(every, key=lambda c: hash_of(_SEED, c.name)) for every in (pairs, triples))
    splits, pairs, triples = {}, iter(pairs), iter(triples)
    for split, (of_two, of_three) in _COMBINATIONS.items():
        chosen = [*itertools.islice(pairs, of_two), *itertools.islice(triples, of_three)]
        splits[split] = sorted(chosen, key=lambda c: hash_of(_SEED + 1, c.name))  # any prefix has both, mixed
    return splits


def scenes_source() -> Source:
    """Return train with many images of each combination; validation and test have one, so a caption fits one image."""
    return {split: Split(partial(_read_scenes, split), f"seed {_SEED}") for split in _COPIES}


def _read_scenes(split: str) -> datasets.Dataset:
    # All combinations once, then again, so that any prefix of the split holds as many as it can.
    drawn = [(combination, copy) for copy in range(_COPIES[split]) for combination in combinations()[split]]
    return build_dataset(
        image_bytes([ppm(draw_scene(combination, copy=copy)) for combination, copy in drawn]),
        [f"scenes-{combination.name}-{copy:02d}" for combination, copy in drawn],
        captions=[combination.captions for combination, _ in drawn],
    )


def draw_scene(combination: Combination, *, copy: int) -> np.ndarray:
    """Draw uint8 (32, 32, 3) at a place, in sizes and on a background that depend on (combination, copy) alone.

    The objects stand along the axis of the relation without touching, and apart across it by no more than a fraction of
    their size, so that the image shows one relation, not two.
    """
    generator = np.random.default_rng(hash_of(_SEED, f"{combination.name}-{copy}"))
    count = len(combination.objects)
    smallest, spread, widest_gap = (4.6, 1.8, 3.5) if count == 2 else (3.9, 0.6, 1.6)  # pixels
    sizes = smallest + spread * generator.uniform(size=count)  # radius
    gap = 1.0 + (widest_gap - 1.0) * generator.uniform()
    length = 2 * sizes.sum() + gap * (count - 1)
    start = 0.5 + (IMAGE_SIZE - 1 - length) * generator.uniform()
    along = start + np.cumsum(2 * sizes) - sizes + gap * np.arange(count)
    across = 9.0 + (IMAGE_SIZE - 18.0) * generator.uniform() + 3.0 * (generator.uniform(size=count) - 0.5)
    canvas = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), 28.0 + 30.0 * generator.uniform(), dtype=np.float32)
    shades = 1.0 - 0.12 * generator.uniform(size=count)
    for (colour, shape), a, c, size, shade in zip(combination.objects, along, across, sizes, shades, strict=True):
        x, y = (c, a) if combination.relation == "above" else (a, c)
        covered = _coverage(shape, x, y, size)[:, :, None]
        canvas += covered * (np.asarray(COLOURS[colour], dtype=np.float32) * np.float32(shade) - canvas)
    return np.round(canvas).astype(np.uint8)


def _coverage(shape: str, x: float, y: float, size: float) -> np.ndarray:
    """Return the (32, 32) share of each pixel inside the shape: the signed distance to its edge, clipped to a pixel."""
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
