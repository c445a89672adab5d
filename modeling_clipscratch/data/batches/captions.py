"""Keep each caption of a dataset once: which rows have it, which rows are positives, and its padded tokens."""

import copy
import hashlib
import logging
import re
from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch

from ...utils.errors import ClipScratchError
from ..dataset import class_names, labels_of
from ..images.randomness import key_ids
from ..templates import DEFAULT_TEMPLATES, class_prompts

logger = logging.getLogger(__name__)

_SIDES = re.compile(r"\b(left|right|leftmost|rightmost)\b", re.IGNORECASE)


class CaptionTable:
    """Hold every caption of (N,) rows once in `texts` (U,), and which rows have it.

    Rows that share a number of `links` (N, K) are positives of each other: by default those of one key, and those that
    share a caption. `survives_flip` (U,) is False where a mirrored image would make the caption wrong.
    """

    def __init__(self, captions: Sequence[Sequence[str]], *, links=None, keys: Sequence[str] | None = None):
        numbers: dict[str, int] = {}
        self._flat = np.array([numbers.setdefault(text, len(numbers)) for texts in captions for text in texts])
        self._offsets = np.cumsum([0, *map(len, captions)])
        self.texts = list(numbers)
        self.links = _links(captions, keys) if links is None else torch.as_tensor(links)
        self.survives_flip = torch.tensor([_SIDES.search(text) is None for text in self.texts])

    @classmethod
    def of(cls, dataset, templates: Sequence[str] | None = None) -> "CaptionTable":
        """Make the table of a prepared dataset; of class data with `templates` (default: "a photo of a {}.")."""
        if "label" not in dataset.features:
            return cls(dataset["captions"][:], keys=dataset["key"][:])
        return cls.of_classes(class_names(dataset), templates or DEFAULT_TEMPLATES).select(labels_of(dataset))

    @classmethod
    def of_classes(cls, class_names: Sequence[str], templates: Sequence[str]) -> "CaptionTable":
        """Make a table of C rows, in which row i stands for any image of class i."""
        prompts = [class_prompts(name, templates) for name in class_names]
        return cls(prompts, links=torch.arange(len(prompts))[:, None])

    def choose(self, indices: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Choose a caption of each of (B,) rows by (B,) draws in [0, 1). Return (B,) ids into `texts`."""
        indices = indices.numpy()
        first, count = self._offsets[indices], self._offsets[indices + 1] - self._offsets[indices]
        return torch.from_numpy(self._flat[first + (draws.numpy() * count).astype(np.int64)])

    def digest(self, ids: torch.Tensor) -> str:
        digest = hashlib.blake2b(ids.numpy().tobytes(), digest_size=8)
        for part in (self._flat, self._offsets, self.links.numpy()):
            digest.update(part.tobytes())
        digest.update("\0".join(self.texts).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def select(self, indices: np.ndarray) -> "CaptionTable":
        """Return the table of the rows at `indices`, with the same texts and ids."""
        table = copy.copy(self)
        counts = np.diff(self._offsets)[indices]
        table._offsets = np.cumsum([0, *counts])
        first = np.repeat(self._offsets[:-1][indices] - table._offsets[:-1], counts)
        table._flat = self._flat[first + np.arange(len(first))]
        table.links = self.links[torch.from_numpy(indices)]
        return table


def _links(captions, keys):
    """Return the numbers of each row's image and captions that other rows share, else of its image alone."""
    first: dict[str, int] = {}
    rows: dict[str, list[int]] = {}  # of names that several rows have; lists for all would take most of the time
    for row, (texts, key) in enumerate(zip(captions, keys, strict=True)):
        for name in (key, *(f"\0{text}" for text in texts)):  # no key begins with \0
            if (other := first.setdefault(name, row)) != row:
                places = rows.setdefault(name, [other])
                places += [row] if places[-1] != row else []
    linked: dict[int, list[str]] = {}
    for places, name in {tuple(rows[name]): name for name in first if name in rows}.items():  # equal rows count once
        for row in places:
            linked.setdefault(row, []).append(name)
    return link_ids([linked.get(row) or [key] for row, key in enumerate(keys)])


def link_ids(names: Sequence[list[str]]) -> torch.Tensor:
    """Return (N, K) numbers of (N,) lists of one or more names; a shorter list repeats its first name."""
    width = max(map(len, names))
    return key_ids([name for row in names for name in row + row[:1] * (width - len(row))]).view(-1, width)


class TokenTable:
    """Tokenise texts once, and pad those of a batch on the right to the longest of them.

    Texts of more than `max_length` tokens are cut, with one warning if `warn`. A text without a token raises.
    """

    def __init__(self, texts: list[str], tokenizer, max_length: int, *, warn: bool = True):
        options = {"padding": False, "return_attention_mask": False, "return_token_type_ids": False}
        encoded = tokenizer(list(texts), truncation=True, max_length=max_length, **options)["input_ids"]
        tokenizer(list(texts[:1]), truncation=False, verbose=False)  # a tokenizer is saved with its last truncation
        self.lengths = np.array([len(ids) for ids in encoded])
        if warn and (full := (self.lengths == max_length).sum()):
            message = "%d of %d texts fill the %d tokens that the text tower reads; what is longer is cut off."
            logger.warning(message, full, len(texts), max_length)
        if not self.lengths.all():
            raise ClipScratchError(
                f"the text {texts[self.lengths.argmin()]!r} has no token, so there is nothing to encode; leave it out, "
                "or choose a tokenizer that adds a token of its own to each text."
            )
        self._pad = tokenizer.pad_token_id
        self._offsets = np.cumsum([0, *self.lengths])
        self._flat = np.fromiter(chain.from_iterable(encoded), np.int64, count=self._offsets[-1])

    def fingerprint(self) -> str:
        return hashlib.blake2b(self._flat.tobytes() + self._offsets.tobytes(), digest_size=16).hexdigest()

    def by_length(self, ids: torch.Tensor) -> torch.Tensor:
        """Return (n,) ids of texts, shortest first."""
        return ids[torch.from_numpy(np.argsort(self.lengths[ids.numpy()], kind="stable"))]

    def batch(self, ids: torch.Tensor, *, length: int | None = None) -> dict[str, torch.Tensor]:
        """Return `input_ids` and `attention_mask` (B, T) of (B,) ids, T the longest text or `length`."""
        lengths, first = self.lengths[ids.numpy()], self._offsets[ids.numpy()]
        position = np.arange(length or lengths.max())[None, :]
        mask = position < lengths[:, None]
        tokens = self._flat[np.minimum(first[:, None] + position, len(self._flat) - 1)]
        tokens = np.where(mask, tokens, self._pad)
        return {"input_ids": torch.from_numpy(tokens), "attention_mask": torch.from_numpy(mask.astype(np.int64))}
