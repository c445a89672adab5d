"""The captions of a dataset, each once: which rows have which, what belongs together, and their padded tokens."""

import copy
import hashlib
import logging
import re
from collections.abc import Sequence

import numpy as np
import torch

from ...hub.errors_clipscratch import ClipScratchError
from ..dataset import class_names, is_class_data, labels_of
from ..images.randomness import key_ids
from ..templates import DEFAULT_TEMPLATES, class_prompts

logger = logging.getLogger(__name__)

_SIDES = re.compile(r"\b(left|right|leftmost|rightmost)\b", re.IGNORECASE)


class CaptionTable:
    """Every caption of a dataset once, and which rows have it.

    Args:
        captions: (N,) lists of one or more texts.
        links: (N, K) int64; rows that share a number are positives of each other. Default: rows that share a caption.
        keys: (N,) names of the images, for the default of `links`; equal ones are one image.

    Attributes:
        texts: (U,) unique captions.
        survives_flip: (U,) bool tensor, False where a mirrored image would make the caption wrong.
        links: (N, K) int64 tensor.

    >>> table = CaptionTable([["a dog", "a pet"], ["a cat"], ["a pet"]], keys=["0", "1", "2"])
    >>> table.texts
    ['a dog', 'a pet', 'a cat']
    >>> (table.links[0] == table.links[2]).any(), (table.links[0] == table.links[1]).any()
    (tensor(True), tensor(False))
    """

    def __init__(self, captions: Sequence[Sequence[str]], *, links=None, keys: Sequence[str] | None = None):
        numbers: dict[str, int] = {}
        self._flat = np.array([numbers.setdefault(text, len(numbers)) for texts in captions for text in texts])
        self._offsets = np.cumsum([0, *map(len, captions)])
        self.texts = list(numbers)
        self.links = _links(captions, keys) if links is None else torch.as_tensor(links)
        self.survives_flip = torch.tensor([survives_flip(text) for text in self.texts])

    @classmethod
    def of(cls, dataset, templates: Sequence[str] | None = None) -> "CaptionTable":
        """The table of a prepared dataset; of class data with `templates` (default: "a photo of a {}.").

        >>> from modeling_clipscratch.data import load_data
        >>> data = load_data("digits", splits=["test"])
        >>> table = CaptionTable.of(data["test"], data.templates)
        >>> len(table.texts), table.links.shape  # ten classes in six prompts
        (60, torch.Size([360, 1]))
        """
        if not is_class_data(dataset):
            return cls(dataset["captions"][:], keys=dataset["key"][:])
        return cls.of_classes(class_names(dataset), templates or DEFAULT_TEMPLATES).select(labels_of(dataset))

    @classmethod
    def of_classes(cls, class_names: Sequence[str], templates: Sequence[str]) -> "CaptionTable":
        """The table of class data whose rows are not known beforehand: row i stands for any image of class i."""
        prompts = [class_prompts(name, templates) for name in class_names]
        return cls(prompts, links=torch.arange(len(prompts))[:, None])

    def choose(self, indices: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """One caption a row: (B,) row indices and (B,) draws in [0, 1) -> (B,) ids into `texts`."""
        indices = indices.numpy()
        first, count = self._offsets[indices], self._offsets[indices + 1] - self._offsets[indices]
        return torch.from_numpy(self._flat[first + (draws.numpy() * count).astype(np.int64)])

    def add_to(self, digest) -> None:
        """Update a `hashlib` digest with the texts and who has which."""
        for part in (self._flat, self._offsets, self.links.numpy()):
            digest.update(part.tobytes())
        digest.update("\0".join(self.texts).encode("utf-8", "surrogatepass"))

    def select(self, indices: np.ndarray) -> "CaptionTable":
        """The table of the rows at `indices`; the texts and their ids stay."""
        table = copy.copy(self)
        counts = np.diff(self._offsets)[indices]
        table._offsets = np.cumsum([0, *counts])
        first = np.repeat(self._offsets[:-1][indices] - table._offsets[:-1], counts)
        table._flat = self._flat[first + np.arange(len(first))]
        table.links = self.links[torch.from_numpy(indices)]
        return table


def _links(captions, keys):
    """Of each row, of its image and captions, those that other rows have too, else its image; same rows count once."""
    rows: dict[str, list[int]] = {}
    for row, (texts, key) in enumerate(zip(captions, keys, strict=True)):
        for name in dict.fromkeys([key, *(f"\0{text}" for text in texts)]):  # no key is written so
            rows.setdefault(name, []).append(row)
    shared = {tuple(places): name for name, places in rows.items() if len(places) > 1}
    linked: list[list[str]] = [[] for _ in captions]
    for places, name in shared.items():
        for row in places:
            linked[row].append(name)
    linked = [names or [key] for names, key in zip(linked, keys, strict=True)]
    return link_ids(linked)


def link_ids(names: Sequence[list[str]]) -> torch.Tensor:
    """(N,) lists of one or more names -> (N, K) int64; a shorter list repeats its first name."""
    width = max(map(len, names))
    return key_ids([name for row in names for name in row + row[:1] * (width - len(row))]).view(-1, width)


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

    Raises: ClipScratchError if a text has no token at all.

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
            raise ClipScratchError(
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
