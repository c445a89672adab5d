"""Batches of a stream go in as they are trained on; the states that go on behind them come out, for a checkpoint."""

import json
import logging
from collections import deque
from pathlib import Path

from torch.utils.data import DataLoader
from transformers import TrainerCallback

from ...data.batches.stream_batches import StreamedPairs
from ...hub.errors_clipscratch import ClipScratchError
from ...utils.atomic_files import write_text

logger = logging.getLogger(__name__)


class StreamStates:
    """Where each reader of this process stands: behind its last batch that was trained on, not behind those fetched.

    A `DataLoader` takes a batch of each worker in turn and begins with the first, so the states are a queue, the next
    reader's at its head: on resume the first worker continues the head, whichever worker that was before.

    Args:
        pairs: this process's stream.
    """

    def __init__(self, pairs: StreamedPairs):
        self.pairs = pairs
        self._start, self.queue = list(pairs.states), deque(pairs.states)
        self.skipped = 0

    def restart(self) -> None:
        """Go back to the first row."""
        self.queue = deque(self._start)

    def loader(self, args) -> DataLoader:
        """Batches from where the states stand. They are this process's own already: accelerate has nothing to share.

        Args: `TrainingArguments`.
        """
        self.pairs.states = list(self.queue)
        return DataLoader(
            self.pairs,
            batch_size=None,
            num_workers=args.dataloader_num_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=getattr(args, "dataloader_multiprocessing_context", None),
            pin_memory=args.dataloader_pin_memory,
        )

    def take(self, batch: dict) -> None:
        """Takes the stream's word out of a batch.

        Raises: ClipScratchError where the reader met an error.
        """
        word = batch.pop("stream")
        if "error" in word:
            raise ClipScratchError(word["error"])
        head = self.queue.popleft()
        assert head["worker"] == word["state"]["worker"]
        self.queue.append(word["state"])
        for sentence in word["warnings"]:
            self.skipped += 1
            if self.skipped in (1, 10, 100, 1000) or self.skipped % 10_000 == 0:
                logger.warning("%d rows are left out so far, the last since %s", self.skipped, sentence)

    def save(self, folder: str | Path) -> None:
        """Writes `stream_state_<process>.json`."""
        text = json.dumps({**self._circumstances(), "states": list(self.queue)})
        write_text(_path(folder, self.pairs.process), text + "\n")

    def load(self, folder: str | Path) -> None:
        """Takes up what `save` wrote.

        Raises: ClipScratchError if there is none, or it is of other readers or another set of shards.
        """
        first, now = _path(folder, 0), self._circumstances()
        if not first.is_file():
            raise ClipScratchError(
                f"{folder} was not written by a streamed run ({first.name} is missing); begin a new run."
            )
        before = json.loads(first.read_text())
        for name, meaning in (("processes", "processes"), ("workers", "readers a process (dataloader_num_workers)")):
            if before[name] != now[name]:
                raise ClipScratchError(
                    f"{folder} was written by {before[name]} {meaning}, not {now[name]}: the rows are dealt to them; "
                    "go on with as many, or begin a new run."
                )
        if before["shards"] != now["shards"]:
            raise ClipScratchError(
                f"{folder}: the shards of {self.pairs.rows.title} are no longer those that the run began with; "
                "restore them, or begin a new run."
            )
        self.queue = deque(json.loads(_path(folder, self.pairs.process).read_text())["states"])

    def _circumstances(self):
        pairs = self.pairs
        return {"processes": pairs.processes, "workers": pairs.workers, "shards": pairs.rows.fingerprint()}


def _path(folder, process):
    return Path(folder) / f"stream_state_{process}.json"


class ShareOfRun(TrainerCallback):
    """The log's `epoch` of a stream, whose length is not known: the share of the run, also after it was resumed."""

    def on_step_end(self, args, state, control, **kwargs):
        state.epoch = state.global_step / state.max_steps
