"""Rows go in; their unique captions, who says which, what means the same, and padded tokens come out."""

import copy
import hashlib
import logging
import re
from collections.abc import Sequence

import numpy as np
import torch

from .templates import class_prompts

logger = logging.getLogger(__name__)

_SIDES = re.compile(r"\b(left|right|leftmost|rightmost)\b", re.IGNORECASE)


class CaptionTable:
    """Every caption of a split once, and which rows say it.

    Attributes:
        texts: (U,) unique captions.
        survives_flip: (U,) bool tensor, False where a mirrored picture would make the caption wrong.
        group: (N,) int64 tensor, rows of equal group mean the same: one class, or the same set of captions.

    >>> from modeling_clipscratch.data import load_rows
    >>> table = CaptionTable(load_rows("digits", "test"))
    >>> len(table.texts), table.texts[0]  # ten classes in six prompts
    (60, 'a photo of the digit zero.')
    >>> table.group.shape
    torch.Size([360])
    """

    def __init__(self, rows):
        if rows.kind == "class":
            self._take_prompts(rows.class_names, rows.templates, rows.labels)
        else:
            self.texts, ids = _unique(rows.captions)
            self._flat = np.array(ids)
            self._offsets = np.cumsum([0] + [len(captions) for captions in rows.captions])
            sets = [tuple(sorted(set(captions))) for captions in rows.captions]
            self.group = torch.from_numpy(np.array(_unique([sets])[1], dtype=np.int64))
        self.survives_flip = torch.tensor([survives_flip(text) for text in self.texts])

    @classmethod
    def of_classes(cls, class_names: Sequence[str], templates: Sequence[str]) -> "CaptionTable":
        """The table of class data whose rows are not known beforehand: row i stands for any picture of class i."""
        table = cls.__new__(cls)
        table._take_prompts(class_names, templates, np.arange(len(class_names)))
        table.survives_flip = torch.tensor([survives_flip(text) for text in table.texts])
        return table

    def _take_prompts(self, class_names, templates, labels):
        self.texts, ids = _unique([class_prompts(name, templates) for name in class_names])
        self._flat = np.array(ids).reshape(-1, len(templates))[labels].reshape(-1)
        self._offsets = np.arange(len(labels) + 1) * len(templates)
        self.group = torch.from_numpy(np.asarray(labels, dtype=np.int64))

    def choose(self, indices: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """One caption a row: (B,) row indices and (B,) draws in [0, 1) -> (B,) ids into `texts`."""
        indices = indices.numpy()
        first, count = self._offsets[indices], self._offsets[indices + 1] - self._offsets[indices]
        return torch.from_numpy(self._flat[first + (draws.numpy() * count).astype(np.int64)])

    def add_to(self, digest) -> None:
        """Update a `hashlib` digest with the texts and who says which."""
        for part in (self._flat, self._offsets, self.group.numpy()):
            digest.update(part.tobytes())
        digest.update("\0".join(self.texts).encode("utf-8", "surrogatepass"))

    def rows_survive_flip(self) -> torch.Tensor:
        """(N,) bool, False where any caption of the row names a side."""
        survives = self.survives_flip.numpy()[self._flat]
        return torch.from_numpy(np.logical_and.reduceat(survives, self._offsets[:-1]))

    def select(self, indices: np.ndarray) -> "CaptionTable":
        """The table of the rows at `indices`; the texts and their ids stay."""
        table = copy.copy(self)
        counts = np.diff(self._offsets)[indices]
        table._offsets = np.cumsum([0, *counts])
        table._flat = np.concatenate([self._flat[self._offsets[i] : self._offsets[i + 1]] for i in indices])
        table.group = self.group[torch.from_numpy(indices)]
        return table


class TokenTable:
    """Texts tokenised once, kept ragged, padded on the right to the longest of a batch whatever the tokenizer's side.

    Args:
        texts: (U,) captions or prompts.
        tokenizer: the text tower's.
        max_length: tokens that the tower reads; longer texts are cut and counted.
        warn: log how many are cut.

    Attributes:
        lengths: (U,) tokens of each text.
        truncated: how many texts are cut.

    Raises: ValueError if a text has no token at all.

    >>> from modeling_clipscratch.training import word_tokenizer
    >>> texts = ["a red circle", "a circle"]
    >>> TokenTable(texts, word_tokenizer(texts), max_length=8).batch(torch.tensor([0, 1]))["attention_mask"]
    tensor([[1, 1, 1, 1],
            [1, 1, 1, 0]])
    """

    def __init__(self, texts: list[str], tokenizer, max_length: int, *, warn: bool = True):
        # Without the tokenizer's own warning of long texts.
        encoded = tokenizer(list(texts), padding=False, truncation=False, verbose=False)["input_ids"]
        long = [number for number, ids in enumerate(encoded) if len(ids) > max_length]
        if long:
            cut = tokenizer([texts[number] for number in long], padding=False, truncation=True, max_length=max_length)
            # A tokenizer is saved with the truncation of its last call.
            tokenizer(texts[0], truncation=False, verbose=False)
            for number, ids in zip(long, cut["input_ids"], strict=True):
                encoded[number] = ids
            if warn:
                logger.warning(
                    "%d of %d captions are longer than the %d tokens that the text tower reads; they are cut.",
                    len(long), len(texts), max_length,
                )  # fmt: skip
        self.truncated = len(long)
        self.lengths = np.array([len(ids) for ids in encoded])
        if not self.lengths.all():
            raise ValueError(
                f"the text {texts[self.lengths.argmin()]!r} has no token, so nothing is there to be encoded; leave it "
                "out, or choose a tokenizer that puts a token of its own at the beginning or end of a text."
            )
        self._pad = tokenizer.pad_token_id
        self._offsets = np.cumsum([0, *self.lengths])
        self._flat = np.concatenate([np.asarray(ids, dtype=np.int64) for ids in encoded])

    def fingerprint(self) -> str:
        """Hash of all token ids and where each caption ends."""
        return hashlib.blake2b(self._flat.tobytes() + self._offsets.tobytes(), digest_size=16).hexdigest()

    def __len__(self):
        return len(self.lengths)

    def by_length(self, ids: torch.Tensor | None = None) -> torch.Tensor:
        """(n,) caption ids, default all, shortest first."""
        ids = torch.arange(len(self)) if ids is None else ids
        return ids[torch.from_numpy(np.argsort(self.lengths[ids.numpy()], kind="stable"))]

    def batch(self, ids: torch.Tensor, *, length: int | None = None) -> dict[str, torch.Tensor]:
        """(B,) caption ids -> `input_ids`, `attention_mask` (B, T), T the longest of these, or `length`."""
        lengths, first = self.lengths[ids.numpy()], self._offsets[ids.numpy()]
        position = np.arange(length or lengths.max())[None, :]
        mask = position < lengths[:, None]
        tokens = self._flat[np.minimum(first[:, None] + position, len(self._flat) - 1)]
        tokens = np.where(mask, tokens, self._pad)
        return {"input_ids": torch.from_numpy(tokens), "attention_mask": torch.from_numpy(mask.astype(np.int64))}


def survives_flip(text: str) -> bool:
    """Whether a caption is still right where its picture is mirrored.

    >>> survives_flip("a cat left of a dog"), survives_flip("what is left out")
    (False, False)
    >>> survives_flip("a cat and a dog")
    True
    """
    return _SIDES.search(text) is None


def _unique(lists):
    """Lists of hashable things -> (each once, in order of first appearance; id of every entry, flattened)."""
    ids, flat = {}, []
    for entries in lists:
        flat.extend(ids.setdefault(entry, len(ids)) for entry in entries)
    return list(ids), flat
