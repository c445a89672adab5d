"""Make whole batches of image-text pairs, the same for any number of workers and processes, and after any resume.

A batch holds `images` uint8 (B, H, W, 3) or `image_features` (B, D); `input_ids`, `attention_mask` (B, T) or
`text_features` (B, D); `links` int64 (B, K), rows that share a number are positives of each other; `sample` int64 (B,)
and `may_flip` bool (B,) for the augmentation.
"""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain

import datasets
import numpy as np
import torch

from ...utils.errors import ClipScratchError
from ..dataset import ImageReader, title
from ..images.decode import BadImageError
from ..images.preprocess import Preprocess, read_ahead
from ..images.randomness import epoch_order, key_ids, sample_ids, uniform
from .captions import CaptionTable, TokenTable

logger = logging.getLogger(__name__)

_CAPTION_DRAW = 100  # a draw number apart from those of the augmentation


class TextSide:
    """Draw a caption of each row by (seed, epoch, key), and return its tokens or its cached features.

    It has `tokens` or `features` (U, D) of the texts of a caption table, or a `tokenizer` for texts not known before.
    """

    def __init__(self, *, seed: int, tokens: TokenTable | None = None, features=None, tokenizer=None):
        self.seed, self.tokens, self.features, self.tokenizer = seed, tokens, features, tokenizer

    def batch(self, table: CaptionTable, rows: torch.Tensor, ids: torch.Tensor, epochs) -> dict[str, torch.Tensor]:
        """Return the text part of a batch of (B,) rows of a caption table, their `key_ids` and epochs."""
        samples = sample_ids(ids, seed=self.seed, epoch=epochs)
        chosen = table.choose(rows, uniform(samples, _CAPTION_DRAW))
        if self.features is not None:
            part = {"text_features": self.features[chosen]}
        elif self.tokens is not None:
            part = self.tokens.batch(chosen)
        else:
            texts = [table.texts[number] for number in chosen.tolist()]
            tokens = TokenTable(texts, self.tokenizer, self.tokenizer.model_max_length, warn=False)
            part = tokens.batch(torch.arange(len(texts)))
        return {**part, "links": table.links[rows], "sample": samples, "may_flip": table.survives_flip[chosen]}

    def longest(self, count: int) -> dict[str, torch.Tensor]:
        """Return tokens or features of `count` times the longest caption possible."""
        if self.features is not None:
            return {"text_features": self.features[:1].repeat(count, 1)}
        if self.tokens is not None:
            return self.tokens.batch(torch.full((count,), int(self.tokens.lengths.argmax())))
        ids = torch.full((count, self.tokenizer.model_max_length), self.tokenizer.pad_token_id)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class PairDataset(torch.utils.data.Dataset):
    """Make whole batches (`__getitems__`) of a prepared dataset of N rows.

    Images are decoded `pixels`, uint8 (N, H, W, 3); or read by `preprocess`, where `on_bad_row` `skip` takes the next
    row that can be read; or cached `image_features` (N, D) of a frozen vision tower.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        captions: CaptionTable,
        texts: TextSide,
        *,
        pixels: np.ndarray | None = None,
        preprocess: Preprocess | None = None,
        image_features: torch.Tensor | None = None,
        on_bad_row: str = "raise",
    ):
        self.dataset, self.captions, self.texts = dataset, captions, texts
        self.pixels = None if pixels is None else torch.from_numpy(pixels)
        self.preprocess, self.image_features = preprocess, image_features
        self.on_bad_row = on_bad_row
        self._images = ImageReader(dataset)
        self._ids = key_ids(dataset["key"][:])
        self._skipped = set()

    def __len__(self):
        return len(self.dataset)

    def digest(self) -> str:
        """Return a digest of keys, captions and classes, by which a resumed run knows its data."""
        return self.captions.digest(self._ids)

    def __getitems__(self, places: Sequence[tuple[int, int]]) -> dict[str, torch.Tensor]:
        """Return the batch of [(epoch, row index), ...]; in a worker that meets a broken image, `error` alone."""
        epochs, rows = torch.tensor(places).unbind(1)
        batch = {}
        if self.preprocess is not None:
            try:
                rows, batch["images"] = self._read(rows)
            except BadImageError as error:
                if torch.utils.data.get_worker_info() is None:
                    raise
                return {"error": str(error)}  # raised here, it would reach the user as a traceback
        elif self.pixels is not None:
            batch["images"] = self.pixels.index_select(0, rows)  # copies rows; self.pixels[...] goes byte by byte
        else:
            batch["image_features"] = self.image_features[rows]
        return {**batch, **self.texts.batch(self.captions, rows, self._ids[rows], epochs)}

    def largest_batch(self, count: int) -> dict[str, torch.Tensor]:
        """Return a batch of `count` rows with the longest caption, to measure the memory of a batch."""
        return {**self.__getitems__([(0, 0)] * count), **self.texts.longest(count)}

    def plain_images(self, rows: torch.Tensor, batch_size: int) -> Iterator[torch.Tensor]:
        """Yield batches of the images of (n,) rows, uint8 (B, H, W, 3), not augmented, read ahead of the caller."""
        if self.pixels is not None:
            yield from (self.pixels[chosen] for chosen in rows.split(batch_size))
        else:
            read = partial(self.preprocess.read, self._images)
            yield from (torch.from_numpy(np.stack(batch)) for batch in read_ahead(read, rows.tolist(), batch_size))

    def _read(self, rows):
        kept, images = [], []
        for row in rows.tolist():
            for place in chain(range(row, len(self)), range(row)):
                try:
                    images.append(self.preprocess.read(self._images, place))
                    kept.append(place)
                    break
                except BadImageError as error:
                    if self.on_bad_row == "raise":
                        raise
                    before = len(self._skipped)
                    self._skipped.add(place)  # each counts once, not once an epoch
                    if (count := len(self._skipped)) > before and str(count).strip("0") == "1":  # 1, 10, 100, ...
                        message = "%s: skipped %d of %d images so far; the last: %s"
                        logger.warning(message, title(self.dataset), count, len(self), error)
            else:
                raise ClipScratchError(f"{title(self.dataset)}: none of its images can be read.")
        return torch.tensor(kept), torch.from_numpy(np.stack(images))


class EpochSampler(torch.utils.data.Sampler):
    """Yield (epoch, row index) in the order that follows from (seed, epoch). Set the epoch before each pass."""

    def __init__(self, count: int, *, seed: int):
        self.count, self.seed, self.epoch = count, seed, 0

    def set_epoch(self, epoch: int):
        self.epoch = epoch

    def __len__(self):
        return self.count

    def __iter__(self):
        return ((self.epoch, index) for index in epoch_order(self.count, seed=self.seed, epoch=self.epoch))
