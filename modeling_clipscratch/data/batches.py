"""Rows and a tokenizer (or cached states) go in; whole batches come out, the same for any worker, process or resume."""

import hashlib
import logging
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from .captions import CaptionTable, TokenTable
from .pixels import Preprocess
from .randomness import epoch_order, key_ids, sample_ids, uniform
from .read_ahead import read_ahead
from .rows import BadImageError, Rows

logger = logging.getLogger(__name__)

CAPTION_DRAW, _VIEW = 100, 101  # draw numbers, apart from those of the augmentation


class PairDataset(torch.utils.data.Dataset):
    """Pairs of a picture and one of its captions, made a batch at a time (`__getitems__`).

    Args:
        rows: N rows.
        captions: their `CaptionTable`.
        seed: all choices follow from (seed, epoch, key).
        pixels: uint8 (N, H, W, 3) of decoded pictures; or
        preprocess: reads and resizes a picture when its batch is made; or
        image_states: (N, V, D) cached states of a frozen vision tower, V views a picture.
        tokens: `TokenTable` of the unique captions; or
        text_states: (U, D) cached states of a frozen text tower.
        on_bad_image: `raise` or `skip` (the next row that can be read takes its place), for `preprocess`.

    A batch holds `images` uint8 (B, H, W, 3) or `image_states` (B, D); `input_ids`, `attention_mask` (B, T) or
    `text_states` (B, D); `group` int64 (B,); `sample` int64 (B,) and `may_flip` bool (B,) for the augmentation.

    >>> from modeling_clipscratch.data import load_rows
    >>> rows = load_rows("digits", "validation")
    >>> captions = CaptionTable(rows)
    >>> states = torch.zeros(len(captions.texts), 16)  # of a frozen text tower
    >>> pixels = np.zeros((len(rows), 8, 8, 3), dtype=np.uint8)
    >>> pairs = PairDataset(rows, captions, seed=0, pixels=pixels, text_states=states)
    >>> batch = pairs.__getitems__([(0, 5), (0, 7)])  # (epoch, row) each
    >>> batch["images"].shape, batch["text_states"].shape
    (torch.Size([2, 8, 8, 3]), torch.Size([2, 16]))
    """

    def __init__(
        self,
        rows: Rows,
        captions: CaptionTable,
        *,
        seed: int,
        pixels: np.ndarray | None = None,
        preprocess: Preprocess | None = None,
        image_states: torch.Tensor | None = None,
        tokens: TokenTable | None = None,
        text_states: torch.Tensor | None = None,
        on_bad_image: str = "raise",
    ):
        assert sum(part is not None for part in (pixels, preprocess, image_states)) == 1
        assert sum(part is not None for part in (tokens, text_states)) == 1
        self.rows, self.captions, self.seed = rows, captions, seed
        self.pixels = None if pixels is None else torch.from_numpy(pixels)
        self.preprocess, self.image_states = preprocess, image_states
        self.tokens, self.text_states = tokens, text_states
        self.on_bad_image = on_bad_image
        self._ids = key_ids(rows.keys)
        self._skipped = set()

    def __len__(self):
        return len(self.rows)

    def digest(self) -> str:
        """Return a digest of keys, captions and classes, by which a resumed run knows its data; pixels are not read."""
        digest = hashlib.blake2b(self._ids.numpy().tobytes(), digest_size=8)
        self.captions.add_to(digest)
        return digest.hexdigest()

    def __getitems__(self, places: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
        """[(epoch, row index), ...] -> batch; in a worker that met a broken picture, `error` alone, its sentence."""
        try:
            return self._batch(places)
        except BadImageError as error:
            if torch.utils.data.get_worker_info() is None:
                raise
            return {"error": str(error)}  # raised there, it would reach the user as a traceback

    def _batch(self, places):
        indices = torch.tensor([index for _, index in places])
        batch = {}
        if self.preprocess is not None:
            indices, batch["images"] = self._read(indices)
        elif self.pixels is not None:
            batch["images"] = self.pixels.index_select(0, indices)  # copies rows; self.pixels[...] goes byte by byte
        samples = sample_ids(self._ids[indices], seed=self.seed, epoch=places[0][0])
        if self.image_states is not None:
            views = self.image_states.shape[1]
            batch["image_states"] = self.image_states[indices, (uniform(samples, _VIEW) * views).long()]
        chosen = self.captions.choose(indices, uniform(samples, CAPTION_DRAW))
        if self.text_states is None:
            batch.update(self.tokens.batch(chosen))
        else:
            batch["text_states"] = self.text_states[chosen]
        batch["group"] = self.captions.group[indices]
        batch["sample"] = samples
        batch["may_flip"] = self.captions.survives_flip[chosen]
        return batch

    def largest_batch(self, count: int) -> dict[str, torch.Tensor]:
        """A batch of `count` rows with the longest caption there is, to measure what a batch may need."""
        batch = self.__getitems__([(0, 0)] * count)
        if self.tokens is not None:
            batch.update(self.tokens.batch(self.tokens.by_length()[-1:].repeat(count)))
        return batch

    def plain_pictures(self, indices: torch.Tensor, batch_size: int) -> Iterator[torch.Tensor]:
        """(n,) row indices -> uint8 (B, H, W, 3) after another, not augmented; a broken one raises.

        What is not in memory is read ahead while the caller works on the batch before.
        """
        if self.pixels is not None:
            yield from (self.pixels[chosen] for chosen in indices.split(batch_size))
        else:
            read = partial(self.preprocess.read, self.rows)
            yield from (torch.from_numpy(np.stack(batch)) for batch in read_ahead(read, indices.tolist(), batch_size))

    def _read(self, indices):
        kept, images = [], []
        for index in indices.tolist():
            for offset in range(len(self.rows)):
                try:
                    images.append(self.preprocess.read(self.rows, (index + offset) % len(self.rows)))
                    kept.append((index + offset) % len(self.rows))
                    break
                except BadImageError as error:
                    if self.on_bad_image == "raise":
                        raise
                    if str(error) not in self._skipped:  # once, not once an epoch
                        self._skipped.add(str(error))
                        logger.warning("skipped: %s", error)
            else:
                raise ValueError(f"{self.rows.name}, split {self.rows.split}: none of its pictures can be read.")
        return torch.tensor(kept), torch.from_numpy(np.stack(images))


class EpochSampler(torch.utils.data.Sampler):
    """Yields (epoch, row index) in the order that (seed, epoch) gives; the epoch is set before each pass."""

    def __init__(self, count: int, *, seed: int):
        self.count, self.seed, self.epoch = count, seed, 0

    def set_epoch(self, epoch: int):
        self.epoch = epoch

    def __len__(self):
        return self.count

    def __iter__(self):
        return ((self.epoch, index) for index in epoch_order(self.count, seed=self.seed, epoch=self.epoch))


def as_they_are(batch):
    """Collator: `PairDataset` makes whole batches already."""
    return batch
