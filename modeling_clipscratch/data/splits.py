"""A set's own splits go in; the split that was asked for comes out, carved from train where the set has none."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from .rows import Rows

logger = logging.getLogger(__name__)

Readers = Mapping[str, Callable[[], Rows]]  # split -> what reads it; nothing is read before it is called

_ALIASES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev", "eval"),
    "test": ("test", "testing"),
}


class NoSuchSplitError(ValueError):
    """A data set does not have the split that was asked for, nor one to take it from."""


def canonical_split(name: str) -> str:
    """`train`, `validation` or `test` where the name is one of theirs, else the name as it is.

    >>> canonical_split("val"), canonical_split("Dev"), canonical_split("restval")
    ('validation', 'validation', 'restval')
    """
    return next((split for split, aliases in _ALIASES.items() if name.lower() in aliases), name)


def is_split_name(name: str) -> bool:
    """
    >>> is_split_name("dev"), is_split_name("cats")
    (True, False)
    """
    return canonical_split(name) in _ALIASES


def by_split(names: Iterable[str], dataset: str) -> dict[str, str]:
    """The names of a set's splits or split folders by the split that they stand for.

    Raises: ValueError if two stand for one.

    >>> by_split(["train", "dev"], "birds")
    {'train': 'train', 'validation': 'dev'}
    """
    found = {}
    for name in names:
        split = canonical_split(name)
        if split in found:
            raise ValueError(f"{dataset}: {found[split]!r} and {name!r} both stand for {split}; rename or remove one.")
        found[split] = name
    return found


def read_split(readers: Readers, split: str, *, dataset: str, validation_fraction: float = 0.1, seed: int = 0) -> Rows:
    """The rows of one split. A set without a validation split gets one from train, and train is then the rest.

    Raises:
        NoSuchSplitError: if the set has no such split.
        ValueError: if the fraction is not in [0, 1).
    """
    if not 0 <= validation_fraction < 1:
        raise ValueError(
            f"validation_fraction={validation_fraction} is not in [0, 1); choose the share of train that validation "
            "gets, such as 0.1, or 0 for no validation."
        )
    split = canonical_split(split)
    carved = "train" in readers and "validation" not in readers and validation_fraction > 0
    if split in readers and not (split == "train" and carved):
        return readers[split]()
    if split not in ("train", "validation") or not carved:
        raise NoSuchSplitError(_no_such_split(readers, split, dataset=dataset, carved=carved))
    train = readers["train"]()
    labels = None if train.kind == "caption" else train.labels
    rest, held = carve_out(train.keys, labels=labels, fraction=validation_fraction, seed=seed)
    if len(held) == 0 or len(rest) == 0:
        raise ValueError(
            f"{dataset}: {len(train)} rows are too few to take {validation_fraction:g} of them for validation; "
            "give more rows, a validation split, or validation_fraction 0 (to train: with eval_strategy no)."
        )
    return train.select(rest) if split == "train" else train.select(held, split="validation")


def carve_out(
    keys: Sequence[str], *, labels: np.ndarray | None = None, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Parts the rows by a hash of (seed, key), in each class alike.

    The rows with the smallest hashes go to the held-out part, so the order of the rows does not matter, and rows that
    are added later move few others. A class of two rows or more gives at least one and keeps at least one.

    Args:
        keys: (N,) unique names.
        labels: (N,) classes, or `None` to take all rows as one.
        fraction: share of the rows to hold out, in [0, 1).

    Returns:
        Indices of the rest and of the held-out rows, both ascending.

    >>> rest, held = carve_out([f"{i}" for i in range(10)], fraction=0.2, seed=0)
    >>> len(rest), len(held), sorted([*rest, *held]) == list(range(10))
    (8, 2, True)
    """
    hashes = np.array([hash_of(seed, key) for key in keys], dtype=np.uint64)
    labels = np.zeros(len(keys), dtype=np.int64) if labels is None else np.asarray(labels)
    held = np.zeros(len(keys), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = round(fraction * len(members))
        if fraction > 0 and len(members) > 1:
            count = min(max(count, 1), len(members) - 1)
        held[members[np.argsort(hashes[members], kind="stable")[:count]]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def hash_of(seed: int, key: str) -> int:
    """64 bits that depend on nothing but (seed, key), on every machine and in every process."""
    text = f"{seed}\0{key}".encode(errors="surrogateescape")  # file names may be no UTF-8
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def _no_such_split(readers: Readers, split: str, *, dataset: str, carved: bool) -> str:
    listed = ", ".join([*readers, *(["validation (taken from train)"] if carved else [])])
    remedy = "choose one of these"
    if split == "test":
        remedy += ", or add a test split"
        if "train" in readers:
            remedy += "; split train with validation_fraction 0 gives every row"
    if split == "validation" and "train" in readers:
        remedy += ", or give validation_fraction a value above 0 (to train without: eval_strategy no)"
    return f"{dataset} has no split {split!r}; it has: {listed}. To go on, {remedy}."
