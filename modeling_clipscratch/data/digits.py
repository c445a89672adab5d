"""Nothing goes in; 1,797 handwritten digits of 8x8 pixels come out as class rows, with no download."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from .rows import Rows
from .splits import Readers

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = (
    "a photo of the digit {}.",
    "the digit {}.",
    "a handwritten {}.",
    "the number {}.",
    "a scan of the number {}, written by hand.",
    "somebody wrote the digit {}.",
)

_VERSION = 1  # goes up when the pictures, keys or splits change
_SPLIT_SEED = 0  # the splits are the set's own: no user's seed changes them
_TEST_PER_CLASS, _VALIDATION_PER_CLASS = 36, 18


def digits_readers(*, class_names: Sequence[str] | None = None, templates: Sequence[str] | None = None) -> Readers:
    """Train 1,257, validation 180, test 360 rows, each class alike.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998, by scikit-learn.
    """
    return {
        split: partial(_read_digits, split, class_names or CLASS_NAMES, templates or TEMPLATES)
        for split in ("train", "validation", "test")
    }


def _read_digits(split: str, class_names: Sequence[str], templates: Sequence[str]) -> Rows:
    from sklearn.datasets import load_digits  # slow to import; only those who want digits wait for it

    bunch = load_digits()
    grey = np.round(bunch.images * (255 / 16)).astype(np.uint8)  # 17 levels, 0 to 16
    chosen = _split_indices(bunch.target)[split]
    return Rows(
        name="digits",
        split=split,
        kind="class",
        keys=[f"digits-{i:04d}" for i in chosen],
        read_image=partial(_read_grey, grey[chosen]),
        labels=bunch.target[chosen].astype(np.int64),
        class_names=list(class_names),
        templates=list(templates),
        origin="scikit-learn's load_digits",
        fingerprint=f"digits-{_VERSION}-{split}",
    )


def _split_indices(labels: np.ndarray) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(_SPLIT_SEED)
    bounds = (_TEST_PER_CLASS, _TEST_PER_CLASS + _VALIDATION_PER_CLASS)
    parts = [np.split(generator.permutation(np.flatnonzero(labels == c)), bounds) for c in range(len(CLASS_NAMES))]
    test, validation, train = (np.sort(np.concatenate(part)) for part in zip(*parts, strict=True))
    return {"train": train, "validation": validation, "test": test}


def _read_grey(grey: np.ndarray, index: int) -> np.ndarray:
    return np.repeat(grey[index][:, :, None], 3, axis=2)
