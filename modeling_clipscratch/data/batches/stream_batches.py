"""Make whole batches of an `IterableDataset`, without an end, each with the state that continues behind it.

A slot is one reader: a worker of a process. In each epoch the shards, in an order of its own, are dealt to the slots;
a slot reads its rows in blocks, shuffles each, and goes on to the next epoch without waiting for the others.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import torch
from PIL import Image

from ...hub.errors_clipscratch import ClipScratchError
from ...utils.local_files import file_of_cell
from ..columns import (
    DEFAULT_OPTIONS,
    DataOptions,
    cell_texts,
    find_columns,
    is_text_or_number,
    known_classes,
    written_lists,
)
from ..dataset import check_inside, class_names, image_name, is_prepared, ppm, prepared_features, read_member, title
from ..images.decode import BadImageError
from ..images.preprocess import Preprocess
from ..images.randomness import epoch_order, key_ids
from ..sources.streams import ShardError, check_resumable, shard_names, shard_rows, undecoded
from ..splits import hash_of
from .captions import CaptionTable, link_ids
from .map_batches import TextSide

_HEAD = 5  # rows that tell the features of a stream that does not know them
FEW_SHARDS = 4  # a slot; with fewer, one shard more or less would make too great a difference between slots


class StreamedRow(NamedTuple):
    """One row: its image, still encoded (or its path), and either captions or a label."""

    key: str
    image: bytes | str
    where: str  # what an error calls it
    captions: list[str] | None
    label: int | None


class BadRowError(ClipScratchError):
    """A row without a caption or a label."""


class StreamedRows:
    """The rows of an `IterableDataset` with the columns of the contract, or with others that tell what they are.

    Args:
        stream: the dataset; `num_shards` readers at most read whole shards of it.
        options: column names and class names, where they cannot be told.

    Attributes:
        class_names: (C,) names, `None` for caption data.

    Raises:
        ClipScratchError: if a column is missing or ambiguous, or the classes have no names.
    """

    def __init__(self, stream: datasets.IterableDataset, options: DataOptions = DEFAULT_OPTIONS):
        stream = with_features(stream).with_format(None)
        self.title, features = title(stream), stream.features
        check_resumable(stream, self.title)
        prepared = is_prepared(stream)
        named = DEFAULT_OPTIONS if prepared else options
        self.image, self.captions, self.label = find_columns(features, named, origin=self.title)
        self.class_names = self.numbers = None
        if self.label:
            feature = features[self.label]
            if prepared and not options.class_names:
                self.class_names = class_names(stream)
            else:
                self.class_names = known_classes(feature, options, column=self.label, origin=self.title)
            if self.class_names is None:
                raise ClipScratchError(
                    f"{self.title}: the classes in column {self.label!r} are not known before all rows are read; give "
                    "their names in label order (class_names)."
                )
            own = getattr(feature, "names", [])  # which a generator may give in place of numbers
            self.numbers = {name: number for names in (own, self.class_names) for number, name in enumerate(names)}
        self.has_keys = is_text_or_number(features.get("key")) and "key" not in (self.image, self.label)
        names = [self.image, *self.captions, self.label, "key" if self.has_keys else None]
        self.stream = undecoded(stream.select_columns([name for name in names if name]))
        self.shards = shard_names(self.stream)

    def fingerprint(self) -> str:
        """Digest of what tells a stream from another before it is read: its columns and the names of its shards."""
        names = [name.rpartition("/")[2] for name in self.shards]
        text = repr((sorted(map(str, self.stream.features.items())), names))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def row(self, raw: dict, shard: int, number: int) -> StreamedRow:
        """A row as the stream gives it -> its parts.

        Raises:
            BadImageError: if it lacks an image.
            BadRowError: if it lacks a caption or a label, or its label a name.
        """
        cell = self._cell(raw)
        image, where = cell.get("bytes") or cell.get("path"), cell.get("path") or f"{self.shards[shard]}: row {number}"
        if not image:
            raise BadImageError(f"{where}: has no image in column {self.image!r}; write it there or remove the row.")
        captions = label = None
        if self.label:
            label = self._number(raw[self.label], where)
        elif not (captions := self._texts(raw)):
            raise BadRowError(f"{where}: has no caption; every row needs one.")
        return StreamedRow(self._key(raw, image), image, where, captions, label)

    def prepared(self, on_bad_row: str, root: str | Path = "", inside: Path | None = None) -> datasets.IterableDataset:
        """The stream with the columns of the contract. A row that lacks something keeps an empty cell.

        Args:
            on_bad_row: `raise`, or `skip` to leave an empty cell for a label that is not among the classes, too.
            root, inside: as `prepare_dataset` takes them.
        """
        prepare = partial(self._prepare, on_bad_row=on_bad_row, root=root, inside=inside)
        columns, features = self.stream.column_names, prepared_features(self.class_names)
        return self.stream.map(prepare, with_indices=True, features=features, remove_columns=columns)

    def _prepare(self, raw, number, *, on_bad_row, root, inside):
        cell = {"bytes": None, "path": None, **self._cell(raw)}
        if (path := cell["path"]) and not cell["bytes"]:
            cell["path"] = file_of_cell(root, path)
            if inside is not None:
                check_inside(cell["path"], inside, f"{self.title}: column {self.image!r}")
        image = cell["bytes"] or cell["path"]
        row = {"image": cell if image else None, "key": self._key(raw, image or b"")}
        if self.label is None:
            return row | {"captions": self._texts(raw)}
        value = raw[self.label]
        try:
            return row | {"label": self._number(value, f"{self.title}: row {number}")}
        except BadRowError as error:
            if on_bad_row == "raise" and value not in (None, -1) and str(value).strip():
                raise ShardError(str(error)) from error
            return row | {"label": -1 if value == -1 else None}

    def _cell(self, raw) -> dict:
        """The image's `bytes` and `path`, as far as the row has them."""
        cell = raw[self.image]
        if isinstance(cell, Image.Image):  # of a `map`, before which `datasets` decodes
            cell = ppm(np.asarray(cell.convert("RGB")))
        cell = {"bytes": cell} if isinstance(cell, bytes) else {"path": cell} if isinstance(cell, str) else cell or {}
        if shard := cell.get("shard"):
            return {"bytes": read_member(cell, {}), "path": f"{shard}: {cell['member']}"}
        return cell

    def _key(self, raw, image):
        return str(raw["key"]) if self.has_keys and raw["key"] is not None else image_name(image)

    def _texts(self, raw):
        return cell_texts(tuple(written_lists([raw[name]])[0] for name in self.captions))

    def _number(self, value, where):
        value = value.strip() if isinstance(value, str) else value
        if value is None or value == "":
            raise BadRowError(f"{where}: has no label in column {self.label!r}; every row of class data needs one.")
        if isinstance(value, str):
            if value not in self.numbers:
                raise BadRowError(f"{where}: label {value!r} is not among the {len(self.class_names)} class names.")
            return self.numbers[value]
        if not 0 <= value < len(self.class_names):
            raise BadRowError(f"{where}: label {value} has no class name; {len(self.class_names)} names are known.")
        return value


def with_features(stream: datasets.IterableDataset) -> datasets.IterableDataset:
    """A stream whose features are known, from its first rows where they are not.

    Raises: ClipScratchError if it is empty.
    """
    if stream.features is not None:
        return stream
    if not (rows := list(stream.take(_HEAD))):
        raise ClipScratchError(f"{title(stream)}: no rows; choose another split or check where it comes from.")
    return stream.map(features=datasets.Dataset.from_list(rows).features)


class StreamedPairs(torch.utils.data.IterableDataset):
    """Batches of rows that are never all in memory.

    Args:
        rows: the training rows.
        texts: what is taken of a caption.
        captions: for class data, `CaptionTable.of_classes`.
        batch_size: pairs of a batch, this process's share of the global batch.
        seed: the order follows from (seed, epoch, slot).
        preprocess: reads and resizes an image when its batch is made.
        process, processes: this process's number, and how many there are.
        workers: of the `DataLoader` of each process, 1 where it has none.
        shuffle_rows: rows of a block, the only rows that are held, encoded.
        on_bad_row: `raise` or `skip` (the next row takes its place).

    A batch holds what one of `PairDataset` holds, and `stream`: `state`, a small dict with which `states` continues
    behind the batch; `warnings`, sentences about rows that were left out; or, where reading failed, `error` alone. (A
    worker's exception would reach the user as a traceback, its log lines once a worker.)
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
        assert (rows.class_names is None) == (captions is None)
        self.rows, self.texts, self.captions = rows, texts, captions
        self.batch_size, self.seed, self.preprocess = batch_size, seed, preprocess
        self.process, self.processes, self.workers = process, processes, workers
        self.shuffle_rows, self.on_bad_row = shuffle_rows, on_bad_row
        start = {"epoch": 0, "shard": 0, "row": 0, "state": None, "block": 0, "emitted": 0}
        self.states = [{"worker": worker, **start} for worker in range(workers)]  # one each, for the next pass

    def __iter__(self) -> Iterator[dict]:
        worker = torch.utils.data.get_worker_info()
        assert worker is None or worker.num_workers == self.workers
        state = self.states[0 if worker is None else worker.id]
        try:
            yield from self._batches(state)
        except ValueError as error:
            yield {"stream": {"error": str(error)}}

    def largest_batch(self, count: int) -> dict[str, torch.Tensor]:
        """A batch of `count` rows with the longest caption there may be, to measure what a batch may need."""
        numbers = torch.arange(count)
        batch = {"images": torch.zeros(count, *self.preprocess.image_size, 3, dtype=torch.uint8), "sample": numbers}
        batch |= {"links": numbers[:, None], "may_flip": torch.ones(count, dtype=torch.bool)}
        return batch | self.texts.longest(count)

    # Rows

    def _batches(self, state):
        kept, warnings, last = [], [], state["epoch"]
        for epoch, raw, behind in self._shuffled(state):
            if epoch > last + 1:
                raise ClipScratchError(f"{self.rows.title}: no row can be used; {warnings[-1]}")
            try:
                row = self.rows.row(*raw)
                image = self.preprocess(self.preprocess.decode(row.image, name=row.where))
            except (BadImageError, BadRowError) as error:
                if self.on_bad_row == "raise":
                    raise
                warnings.append(str(error))
                continue
            kept.append((epoch, row, image))
            last = epoch
            if len(kept) == self.batch_size:
                yield self._batch(*zip(*kept, strict=True)) | {"stream": {"state": behind, "warnings": warnings}}
                kept, warnings = [], []

    def _batch(self, epochs: Sequence[int], rows: Sequence[StreamedRow], images: Sequence[np.ndarray]) -> dict:
        ids = key_ids([row.key for row in rows])
        samples = self.texts.samples(ids, torch.tensor(epochs))
        table, places = self.captions, torch.arange(len(rows))
        if table is None:
            # Any row of the global batch, on whatever process, may share an image or a caption.
            names = [[image_name(row.image), *(f"\0{text}" for text in dict.fromkeys(row.captions))] for row in rows]
            table = CaptionTable([row.captions for row in rows], links=link_ids(names))
        else:
            places = torch.tensor([row.label for row in rows])
        return {"images": torch.from_numpy(np.stack(images)), **self.texts.batch(table, places, samples)}

    def _shuffled(self, state):
        """(epoch, raw row, state behind it) without end, each block in an order of its own."""
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
        """(state at its beginning, list of rows): `shuffle_rows` of them, fewer at the end of an epoch."""
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
        """(state behind the row, arguments of `StreamedRows.row`) from `begin` on."""
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
        """The shards that a slot reads in an epoch: its own whole, and those of which it takes its share of the rows.

        Shards are shared by rows where there are fewer than slots, and what is left over by an even deal where a slot
        has few. Else what is left over goes to other slots in each epoch.
        """
        count, slots = self.rows.stream.num_shards, self.processes * self.workers
        order, whole = epoch_order(count, seed=self.seed, epoch=epoch), count // slots
        if whole >= FEW_SHARDS:
            return [(shard, False) for shard in order[(slot + epoch) % slots :: slots]]
        even = whole * slots
        return [(shard, False) for shard in order[slot:even:slots]] + [(shard, True) for shard in order[even:]]

    def readings(self) -> float:
        """How many times an epoch reads the data: more than once where shards are shared by rows."""
        slots = self.processes * self.workers
        return sum(len(self.deal(slot, 0)) for slot in range(slots)) / self.rows.stream.num_shards
