"""Recognise split names, and take a validation split from the training split."""

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
from datasets.data_files import NON_WORDS_CHARS, SPLIT_KEYWORDS

from ..utils.errors import ClipScratchError

logger = logging.getLogger(__name__)

KEYWORDS = {str(split): words for split, words in SPLIT_KEYWORDS.items()}  # split -> words that mean it
_WORDS = sorted((word for words in KEYWORDS.values() for word in words), key=len, reverse=True)
SPLIT_WORD = re.compile(rf"(?<![^{NON_WORDS_CHARS}])({'|'.join(_WORDS)})(?![^{NON_WORDS_CHARS}])", re.IGNORECASE)
_SHARD = re.compile(r"(?:.*/)?data/([^/]+)-\d{5}-of-\d{5}[^/]*")  # `datasets`' SPLIT_PATTERN_SHARDED


class Split(NamedTuple):
    """One split of a source, which is not read yet."""

    open: Callable[[], datasets.Dataset]  # a prepared dataset, or a table that `prepare_dataset` understands
    origin: str  # where the rows come from, for people: files, or an id with its revision
    stream: Callable[[], datasets.IterableDataset] | None = None  # `None` if the form cannot be streamed
    root: Path | None = None  # as of `prepare_dataset`
    templates: Sequence[str] | None = None  # that come with class data


Source = dict[str, Split]  # name of a split -> how to open it


class NoSuchSplitError(ClipScratchError):
    """A dataset does not have a requested split, nor a split to take it from."""


def canonical_split(name: str) -> str:
    """Return `train`, `validation` or `test` if `datasets` counts the name as one of them, else the name."""
    return next((split for split, words in KEYWORDS.items() if name.lower() in words), name)


def split_words(name: str) -> set[str]:
    """Return the splits that words in a name of a file or folder mean, as `datasets` finds them."""
    return set(map(canonical_split, SPLIT_WORD.findall(name)))


def split_of_path(path: str) -> str | None:
    """Return the split that a relative path with `/` means, by the words in it. Several splits raise."""
    if shard := _SHARD.fullmatch(path):
        return canonical_split(shard[1])
    splits = split_words(path.replace("/", " "))
    if len(splits) > 1:
        raise ClipScratchError(
            f"{path}: its name means {' and '.join(sorted(splits))}; name the file and its folders after one split."
        )
    return next(iter(splits), None)


def by_split(
    names: Iterable[str], dataset: str, split_of: Callable[[str], str | None] = canonical_split
) -> dict[str, str]:
    """Map splits to the names that mean them, without those of which `split_of` returns `None`. Equal ones raise."""
    splits: dict[str, str] = {}
    for name in names:
        split = split_of(name)
        if split in splits:
            raise ClipScratchError(
                f"{dataset}: {splits[split]!r} and {name!r} both mean {split}; rename or remove one."
            )
        splits |= {split: name} if split else {}
    return splits


def group_by_split(paths: Iterable[str], dataset: str) -> dict[str, list[str]]:
    """Group paths by the splits that they mean. Those of no split are train, or left out where others name splits."""
    splits: dict[str, list[str]] = {}
    for path in paths:
        splits.setdefault(split_of_path(path) or "", []).append(path)
    unnamed = splits.pop("", [])
    if unnamed and splits:
        logger.warning("%s: %d of no split are left out (%s, ...).", dataset, len(unnamed), unnamed[0] or ".")
    return splits or ({"train": unnamed} if unnamed else {})


def check_one_folder(paths: Iterable[str], dataset: str) -> None:
    """Raise if files lie in several sub-folders, not of splits or numbers, which may be configurations."""
    tops = {path.partition("/")[0] if "/" in path else "" for path in paths}
    tops = sorted({"" if split_words(top) or top.isdigit() else top for top in tops})
    if len(tops) > 1:
        raise ClipScratchError(
            f"{dataset}: {', '.join(repr(top or '.') for top in tops)} hold data of their own, which may be several "
            f"configurations of one dataset; choose one with --dataset_config {tops[0] or tops[1]}, or move the others."
        )


def carve_out(
    keys: Sequence[str], *, labels: np.ndarray | None = None, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return ascending indices of the rest and of a held-out share of (N,) unique keys, in each class alike.

    It follows from (seed, key): the order of the rows does not matter, and rows that are added later move few others. A
    class of at least two rows gives at least one and keeps at least one.
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
    """Return 64 bits that depend on (seed, key) alone."""
    text = f"{seed}\0{key}".encode(errors="surrogateescape")  # file names may be no UTF-8
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
