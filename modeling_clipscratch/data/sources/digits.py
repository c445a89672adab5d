"""The built-in dataset `digits`: 1,797 handwritten digits of 8x8 pixels, without a download."""

from functools import partial

import datasets
import numpy as np

from ...utils.errors import ClipScratchError
from ..columns import DataOptions
from ..dataset import build_dataset, image_bytes, ppm
from ..splits import Source, Split

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = (
    "a photo of the digit {}.",
    "the digit {}.",
    "a handwritten {}.",
    "the number {}.",
    "a scan of the number {}, written by hand.",
    "somebody wrote the digit {}.",
)

_SPLIT_SEED = 0  # the splits belong to the dataset: no user's seed changes them
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

    bunch, generator = load_digits(), np.random.default_rng(_SPLIT_SEED)
    rows = [generator.permutation(np.flatnonzero(bunch.target == label)) for label in range(len(CLASS_NAMES))]
    chosen = np.sort(np.concatenate([np.split(own, _BOUNDS)[split] for own in rows]))
    grey = np.round(bunch.images[chosen] * (255 / 16)).astype(np.uint8)  # 17 levels, 0 to 16
    return build_dataset(
        image_bytes([ppm(np.repeat(image[:, :, None], 3, axis=2)) for image in grey]),
        [f"digits-{row:04d}" for row in chosen],
        labels=bunch.target[chosen],
        class_names=names,
    )
