"""The row contract: every data source goes in as files or a seed and comes out as one `Rows`."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from PIL import Image

DEFAULT_TEMPLATES = ("a photo of a {}.",)


class BadImageError(ValueError):
    """A picture that cannot be decoded; its message names the file, the member and the reason.

    >>> try:
    ...     raise BadImageError("photos/7.png cannot be read: it is cut short.")
    ... except ValueError as error:
    ...     print(error)
    photos/7.png cannot be read: it is cut short.
    """


@dataclass(frozen=True, kw_only=True)
class Rows:
    """One split of one data set: captions and labels known up front, pictures read one at a time.

    Args:
        name: what the user called the data set (`digits`, a Hub id, a path).
        split: `train`, `validation` or `test`, or the set's own name for it.
        kind: `class` (one label a picture, captions from templates) or `caption` (captions of its own).
        keys: (N,) stable names, unique in the split; all randomness of a sample is drawn from its key.
        read_image: index -> PIL picture or uint8 array (H, W, 3), already RGB and upright. Reads from disk at
            each call; picklable, safe in several worker processes. Raises `BadImageError`.
        encoded: whether the pictures are files, which `read_image` decodes with what it is given as second argument
            (`decode_image` where there is none).
        captions: (N,) lists of one or more captions; `None` for class data.
        labels: (N,) int64 in [0, C); `None` for caption data.
        class_names: (C,) names; `None` for caption data.
        templates: prompts, `{}` stands for the class; `None` for caption data.
        origin: where the rows came from, for people (a path, an id with its revision, a seed).
        fingerprint: changes when the content may have changed; part of every cache key.

    Raises:
        ValueError: if the split is empty, the counts differ or a label has no class name.

    >>> rows = Rows(
    ...     name="squares", split="train", kind="class", keys=["a", "b"], labels=np.array([0, 1]),
    ...     class_names=["black", "white"], templates=["a {} square."], origin="made here", fingerprint="squares-1",
    ...     read_image=lambda index: np.full((8, 8, 3), 255 * index, dtype=np.uint8),
    ... )
    >>> len(rows), rows[1]["captions"], rows[1]["label"]
    (2, ['a white square.'], 1)
    """

    name: str
    split: str
    kind: Literal["class", "caption"]
    keys: Sequence[str]
    read_image: Callable[..., Image.Image | np.ndarray]
    encoded: bool = False
    captions: Sequence[Sequence[str]] | None = None
    labels: np.ndarray | None = None
    class_names: Sequence[str] | None = None
    templates: Sequence[str] | None = None
    origin: str
    fingerprint: str

    def __post_init__(self):
        where = f"{self.name}, split {self.split}"
        if len(self.keys) == 0:
            raise ValueError(f"{where}: no rows; choose another split or check {self.origin}.")
        if self.kind == "caption":
            assert self.captions is not None and len(self.captions) == len(self.keys), where
            bare = next((i for i, texts in enumerate(self.captions) if len(texts) == 0), None)
            if bare is not None:
                raise ValueError(f"{where}: row {self.keys[bare]} has no caption; every row needs at least one.")
            return
        assert self.labels is not None and len(self.labels) == len(self.keys), where
        assert self.class_names is not None and self.templates is not None, where
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.class_names):
            wrong = high if high >= len(self.class_names) else low
            raise ValueError(
                f"{where}: label {wrong} has no class name; {len(self.class_names)} names are known "
                f"(labels 0 to {len(self.class_names) - 1}). Name every class."
            )

    def __len__(self):
        return len(self.keys)

    def __getitem__(self, index: int) -> dict:
        """Row: `image`, `captions`, `key` and, for class data, `label`."""
        row = {"image": self.read_image(index), "captions": list(self.captions_of(index)), "key": self.keys[index]}
        if self.kind == "class":
            row["label"] = int(self.labels[index])
        return row

    def captions_of(self, index: int) -> Sequence[str]:
        """Captions of one row, without reading its picture."""
        if self.kind == "caption":
            return self.captions[index]
        return class_prompts(self.class_names[self.labels[index]], self.templates)

    def select(self, indices: Sequence[int], *, split: str | None = None) -> "Rows":
        """The rows at `indices`, in that order; the fingerprint follows the choice."""
        indices = np.asarray(indices, dtype=np.int64)
        chosen = hashlib.blake2b(indices.tobytes(), digest_size=8).hexdigest()
        return replace(
            self,
            split=self.split if split is None else split,
            keys=[self.keys[i] for i in indices],
            read_image=partial(_read_chosen, self.read_image, indices),
            captions=None if self.captions is None else [self.captions[i] for i in indices],
            labels=None if self.labels is None else self.labels[indices],
            fingerprint=f"{self.fingerprint}-{chosen}",
        )


def _read_chosen(read_image, indices, index, *decode):  # a function, so that worker processes can be sent it
    return read_image(int(indices[index]), *decode)


def class_prompts(class_name: str, templates: Sequence[str]) -> list[str]:
    """
    >>> class_prompts("cat", ["a photo of a {}.", "a drawing of a {}."])
    ['a photo of a cat.', 'a drawing of a cat.']
    """
    return [template.replace("{}", class_name) for template in templates]
