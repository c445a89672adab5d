"""Make batches of an `IterableDataset` without an end, each with the state from which to resume behind it.

A slot is one reader: a worker of a process. In each epoch the shards, in an order of the epoch, are dealt to the slots.
A slot reads its rows in blocks, shuffles each, and continues with the next epoch without waiting for the others.
"""

import hashlib
import itertools
from collections.abc import Iterator

import datasets
import numpy as np
import torch

from ...utils.errors import ClipScratchError
from ..columns import DEFAULT_OPTIONS, DataOptions
from ..dataset import class_names, image_digest, title
from ..images.decode import BadImageError
from ..images.preprocess import Preprocess
from ..images.randomness import epoch_order, key_ids
from ..sources.streams import image_cell, prepare_stream, shard_names, shard_rows
from ..splits import hash_of
from .captions import CaptionTable, link_ids
from .map_batches import TextSide

FEW_SHARDS = 4  # a slot; with fewer, one shard more or less makes too great a difference between slots


class StreamedRows:
    """The rows of any stream that `prepare_stream` understands, prepared as they are read."""

    def __init__(self, stream: datasets.IterableDataset, options: DataOptions = DEFAULT_OPTIONS):
        self.stream = prepare_stream(stream, options)
        self.title, self.class_names = title(self.stream), class_names(self.stream)
        self.shards = shard_names(self.stream)

    def fingerprint(self) -> str:
        """Return a digest of columns and names of shards."""
        names = [name.rpartition("/")[2] for name in self.shards]
        text = repr((sorted(map(str, self.stream.features.items())), names))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def row(self, raw: dict, shard: int, number: int) -> tuple[str, bytes | str, str, list[str] | int]:
        """Return key, encoded image or path, its name for errors, and captions or label of row `number` of a shard."""
        cell = image_cell(raw["image"])
        image, where = cell["bytes"] or cell["path"], cell["path"] or f"{self.shards[shard]}: row {number}"
        if not image:
            raise BadImageError(f"{where}: has no image; remove the row.")
        text = raw["captions" if self.class_names is None else "label"]
        if self.class_names is None and not text:
            raise ClipScratchError(f"{where}: has no caption; every row needs one.")
        if self.class_names is not None and text not in range(len(self.class_names)):
            label = "no label" if text is None else f"label {text}"
            raise ClipScratchError(f"{where}: has {label}; every row needs one of the {len(self.class_names)} named.")
        return raw["key"], image, where, text


class StreamedPairs(torch.utils.data.IterableDataset):
    """Batches of rows that are never all in memory.

    A batch holds what one of `PairDataset` holds, and `stream`: `state`, a small dict from which `states` resumes
    behind the batch, and `warnings`, sentences about rows that were left out; or, if reading failed, `error` alone.
    (An exception of a worker would reach the user as a traceback, its log lines once a worker.)

    `captions` are `CaptionTable.of_classes` for class data, `workers` those of the `DataLoader` of each process (1 if
    it has none), and `shuffle_rows` the rows of a block, the only (encoded) rows in memory.
    """

    def __init__(
        self,
        rows: StreamedRows,
        texts: TextSide,
        captions: CaptionTable | None = None,
        *,
        batch_size: int,
        seed: int,
        preprocess: Preprocess,
        process: int = 0,
        processes: int = 1,
        workers: int = 1,
        shuffle_rows: int = 2048,
        on_bad_row: str = "raise",
    ):
        self.rows, self.texts, self.captions = rows, texts, captions
        self.batch_size, self.seed, self.preprocess = batch_size, seed, preprocess
        self.process, self.processes, self.workers = process, processes, workers
        self.shuffle_rows, self.on_bad_row = shuffle_rows, on_bad_row
        start = {"epoch": 0, "shard": 0, "row": 0, "state": None, "block": 0, "emitted": 0}
        self.states = [{"worker": worker, **start} for worker in range(workers)]  # one each, for the next pass

    def __iter__(self) -> Iterator[dict]:
        worker = torch.utils.data.get_worker_info()
        state = self.states[0 if worker is None else worker.id]
        try:
            yield from self._batches(state)
        except ValueError as error:
            yield {"stream": {"error": str(error)}}

    def largest_batch(self, count: int) -> dict[str, torch.Tensor]:
        """Return a batch of `count` rows with the longest caption possible, to measure the memory of a batch."""
        numbers = torch.arange(count)
        batch = {"images": torch.zeros(count, *self.preprocess.image_size, 3, dtype=torch.uint8), "sample": numbers}
        batch |= {"links": numbers[:, None], "may_flip": torch.ones(count, dtype=torch.bool)}
        return batch | self.texts.longest(count)

    def _batches(self, state):
        kept, warnings, last = [], [], state["epoch"]
        for epoch, raw, behind in self._shuffled(state):
            if epoch > last + 1:
                raise ClipScratchError(f"{self.rows.title}: no row can be used; {warnings[-1]}")
            try:
                key, image, where, text = self.rows.row(*raw)
                pixels = self.preprocess(self.preprocess.decode(image, name=where))
            except ClipScratchError as error:
                if self.on_bad_row == "raise":
                    raise
                warnings.append(str(error))
                continue
            kept.append((epoch, key, image, text, pixels))
            last = epoch
            if len(kept) == self.batch_size:
                yield self._batch(*zip(*kept, strict=True)) | {"stream": {"state": behind, "warnings": warnings}}
                kept, warnings = [], []

    def _batch(self, epochs, keys, images, texts, pixels):
        if self.captions is not None:
            table, places = self.captions, torch.tensor(texts)
        else:
            # Any two rows of the global batch, on any process, may share an image or a caption.
            rows = zip(images, texts, strict=True)
            names = [[image_digest(image), *(f"\0{text}" for text in dict.fromkeys(own))] for image, own in rows]
            table, places = CaptionTable(texts, links=link_ids(names)), torch.arange(len(texts))
        return {
            "images": torch.from_numpy(np.stack(pixels)),
            **self.texts.batch(table, places, key_ids(keys), torch.tensor(epochs)),
        }

    def _shuffled(self, state):
        """Yield (epoch, arguments of `StreamedRows.row`, state behind the row) without end, each block shuffled."""
        slot, passed = self.process * self.workers + state["worker"], state["emitted"]
        for begin, block in self._blocks(slot, state):
            name = f"slot {slot} block {begin['block']}"
            order = epoch_order(len(block), seed=hash_of(self.seed, name), epoch=begin["epoch"])
            for number, place in enumerate(order):
                raw, block[place] = block[place], None  # not held longer than needed
                if number >= passed:
                    yield begin["epoch"], raw, {**begin, "emitted": number + 1}
            passed = 0

    def _blocks(self, slot, state):
        """Yield blocks of `shuffle_rows` rows, fewer at the end of an epoch, with the state at their start."""
        begin = {**state, "emitted": 0}
        while True:
            rows = self._epoch(slot, begin)
            while block := list(itertools.islice(rows, self.shuffle_rows)):
                behind, block = block[-1][0], [raw for _, raw in block]
                yield begin, block
                begin = {**begin, **behind, "block": begin["block"] + 1}
            if not begin["block"]:
                raise ClipScratchError(
                    f"{self.rows.title}: reader {slot + 1} of {self.processes * self.workers} (processes x workers) "
                    "found no row in a whole epoch; set dataloader_num_workers lower."
                )
            begin = {**begin, "epoch": begin["epoch"] + 1, "shard": 0, "row": 0, "state": None, "block": 0}

    def _epoch(self, slot, begin):
        """Yield (state behind the row, arguments of `StreamedRows.row`) from `begin` to the end of its epoch."""
        slots = self.processes * self.workers
        for place, (shard, shared) in enumerate(self.deal(slot, begin["epoch"])):
            if place < begin["shard"]:
                continue
            first = place == begin["shard"]
            start, state = (begin["row"], begin["state"]) if first else (0, None)
            for row, (raw, behind) in enumerate(shard_rows(self.rows.stream, shard, state), start):
                if not shared or (row + shard) % slots == slot:
                    yield {"shard": place, "row": row + 1, "state": behind}, (raw, shard, row)

    def deal(self, slot: int, epoch: int) -> list[tuple[int, bool]]:
        """Return the shards that a slot reads in an epoch, each with whether it is split by rows among all slots.

        Those that an even deal leaves over are split if a slot has few whole ones, else go to other slots by epoch.
        """
        count, slots = self.rows.stream.num_shards, self.processes * self.workers
        order, whole = epoch_order(count, seed=self.seed, epoch=epoch), count // slots
        if whole >= FEW_SHARDS:
            return [(shard, False) for shard in order[(slot + epoch) % slots :: slots]]
        even = whole * slots
        return [(shard, False) for shard in order[slot:even:slots]] + [(shard, True) for shard in order[even:]]
