"""A stream of rows goes in; whole batches without an end come out, each with the state that continues behind it.

A slot is one reader: a worker of a process. In each epoch the shards, in an order of its own, are dealt to the slots;
a slot reads its rows in blocks, shuffles each, and goes on to the next epoch without waiting for the others.
"""

import itertools
from collections.abc import Iterator

import numpy as np
import torch

from .batches import CAPTION_DRAW
from .captions import CaptionTable, TokenTable, survives_flip
from .pixels import Preprocess
from .randomness import epoch_order, key_ids, sample_ids, uniform
from .rows import BadImageError
from .splits import hash_of
from .streamed_rows import StreamedRow, StreamSource

FEW_SHARDS = 4  # a slot; with fewer, one shard more or less would make too great a difference between slots


class StreamedPairs(torch.utils.data.IterableDataset):
    """Pairs of a picture and one of its captions, a batch at a time, from rows that are never all in memory.

    Args:
        source: the train split.
        batch_size: pairs of a batch, this process's share of the global batch.
        seed: all choices follow from (seed, epoch, key), the order from (seed, epoch, slot).
        preprocess: reads and resizes a picture when its batch is made.
        tokenizer: the text tower's; captions are cut at its `model_max_length`.
        captions: for class data, `CaptionTable.of_classes`; with either
        tokens: `TokenTable` of its texts; or
        text_states: (U, D) cached states of a frozen text tower.
        process, processes: this process's number, and how many there are.
        workers: of the `DataLoader` of each process, 1 where it has none.
        shuffle_rows: rows of a block, the only rows that are held, encoded.
        on_bad_image: `raise` or `skip` (the next row takes its place).

    A batch holds what one of `PairDataset` holds, and `stream`: `state`, a small dict with which `states` continues
    behind the batch; `warnings`, sentences to be said once; or, where reading failed, `error` alone. (A worker's
    exception would reach the user as a traceback, its log lines once a worker.)
    """

    def __init__(
        self,
        source: StreamSource,
        *,
        batch_size: int,
        seed: int,
        preprocess: Preprocess,
        tokenizer=None,
        captions: CaptionTable | None = None,
        tokens: TokenTable | None = None,
        text_states: torch.Tensor | None = None,
        process: int = 0,
        processes: int = 1,
        workers: int = 1,
        shuffle_rows: int = 2048,
        on_bad_image: str = "raise",
    ):
        assert (source.kind == "class") == (captions is not None)
        assert (source.kind == "caption") == (tokens is None and text_states is None)
        self.source, self.batch_size, self.seed, self.preprocess = source, batch_size, seed, preprocess
        self.tokenizer, self.captions, self.tokens, self.text_states = tokenizer, captions, tokens, text_states
        self.process, self.processes, self.workers = process, processes, workers
        self.shuffle_rows, self.on_bad_image = shuffle_rows, on_bad_image
        beginning = {"epoch": 0, "shard": 0, "row": 0, "block": 0, "emitted": 0}
        self.states = [{"worker": worker, **beginning} for worker in range(workers)]  # one each, for the next pass

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
        batch = {"images": torch.zeros(count, *self.preprocess.image_size, 3, dtype=torch.uint8)}
        if self.text_states is not None:
            batch["text_states"] = self.text_states[:1].repeat(count, 1)
        elif self.tokens is not None:
            batch |= self.tokens.batch(self.tokens.by_length()[-1:].repeat(count))
        else:
            ids = torch.full((count, self.tokenizer.model_max_length), self.tokenizer.pad_token_id)
            batch |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        numbers = torch.arange(count)
        return batch | {"group": numbers, "sample": numbers, "may_flip": torch.ones(count, dtype=torch.bool)}

    # Rows

    def _batches(self, state):
        kept, warnings, last = [], [], state["epoch"]
        for epoch, raw, behind in self._rows(state):
            if epoch > last + 1:
                raise ValueError(f"{self.source.name}: none of its pictures can be read; {warnings[-1]}")
            try:
                row = self.source.row(*raw)
                picture = self.preprocess(self.preprocess.decode(row.picture, name=row.where))
            except BadImageError as error:
                if self.on_bad_image == "raise":
                    raise
                warnings.append(f"skipped: {error}")
                continue
            kept.append((epoch, row, picture))
            last = epoch
            if len(kept) == self.batch_size:
                yield self._batch(kept, warnings) | {"stream": {"state": behind, "warnings": warnings}}
                kept, warnings = [], []

    def _rows(self, state):
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
            found = begin["block"] > 0
            while block := list(itertools.islice(rows, self.shuffle_rows)):
                found = True
                (place, row), block = block[-1][0], [raw for _, raw in block]
                yield begin, block
                begin = {**begin, "shard": place, "row": row + 1, "block": begin["block"] + 1}
            if not found:
                raise ValueError(
                    f"{self.source.name}: reader {slot + 1} of {self.processes * self.workers} (processes x workers) "
                    "found no row in a whole epoch; set dataloader_num_workers lower."
                )
            begin = {**begin, "epoch": begin["epoch"] + 1, "shard": 0, "row": 0, "block": 0}

    def _epoch(self, slot, begin):
        """((place of the shard in the slot's list, row in it), arguments of `StreamSource.row`) from `begin` on."""
        slots = self.processes * self.workers
        for place, (shard, shared) in enumerate(self.deal(slot, begin["epoch"])):
            if place < begin["shard"]:
                continue
            for row, raw in self.source.shards.rows(shard, begin["row"] if place == begin["shard"] else 0):
                if not shared or (row + shard) % slots == slot:
                    yield (place, row), (raw, shard, row)

    def deal(self, slot: int, epoch: int) -> list[tuple[int, bool]]:
        """The shards that a slot reads in an epoch: its own whole, and those of which it takes its share of the rows.

        Shards are shared by rows where there are fewer than slots, and what is left over by an even deal where a slot
        has few. Else what is left over goes to other slots in each epoch.
        """
        count, slots = len(self.source.shards.files), self.processes * self.workers
        order, whole = epoch_order(count, seed=self.seed, epoch=epoch), count // slots
        if whole >= FEW_SHARDS:
            return [(shard, False) for shard in order[(slot + epoch) % slots :: slots]]
        even = whole * slots
        return [(shard, False) for shard in order[slot:even:slots]] + [(shard, True) for shard in order[even:]]

    def readings(self) -> float:
        """How many times an epoch reads the set: more than once where shards are shared by rows."""
        count, slots = len(self.source.shards.files), self.processes * self.workers
        return sum(len(self.deal(slot, 0)) for slot in range(slots)) / count

    # Batches

    def _batch(self, kept: list[tuple[int, StreamedRow, np.ndarray]], warnings: list[str]) -> dict:
        epochs, rows, pictures = zip(*kept, strict=True)
        batch = {"images": torch.from_numpy(np.stack(pictures))}
        ids, epochs = key_ids([row.key for row in rows]), torch.tensor(epochs)
        samples = torch.empty_like(ids)
        for epoch in epochs.unique().tolist():  # a batch may begin in one epoch and end in the next
            samples[epochs == epoch] = sample_ids(ids[epochs == epoch], seed=self.seed, epoch=epoch)
        draws = uniform(samples, CAPTION_DRAW)
        if self.captions is not None:
            batch["group"] = torch.tensor([row.label for row in rows])
            chosen = self.captions.choose(batch["group"], draws)
            batch |= (
                self.tokens.batch(chosen) if self.text_states is None else {"text_states": self.text_states[chosen]}
            )
            batch["may_flip"] = self.captions.survives_flip[chosen]
        else:
            texts = [
                row.captions[int(draw * len(row.captions))] for row, draw in zip(rows, draws.tolist(), strict=True)
            ]
            batch |= self._tokenize(texts, warnings)
            batch["group"] = key_ids(["\n".join(sorted(set(row.captions))) for row in rows])
            batch["may_flip"] = torch.tensor([survives_flip(text) for text in texts])
        batch["sample"] = samples
        return batch

    def _tokenize(self, texts, warnings):
        table = TokenTable(texts, self.tokenizer, self.tokenizer.model_max_length, warn=False)
        if table.truncated:
            warnings.append(
                f"captions longer than the {self.tokenizer.model_max_length} tokens that the text tower reads are cut."
            )
        return table.batch(torch.arange(len(texts)))
