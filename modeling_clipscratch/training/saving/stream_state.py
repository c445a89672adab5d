"""Keep the position of a stream's readers behind the last batch that was trained on, and save it with checkpoints."""

import json
import logging
from collections import deque
from pathlib import Path

from ...data.batches.stream_batches import StreamedPairs
from ...utils.errors import ClipScratchError

logger = logging.getLogger(__name__)

_FILE = "stream_state_{}.json"


class StreamStates:
    """The position of each reader of this process, as a queue: a `DataLoader` takes a batch of each worker in turn.

    A resumed run's first worker continues the head, whichever worker that was before.
    """

    def __init__(self, pairs: StreamedPairs):
        self.pairs, self.skipped = pairs, 0
        self._start, self.queue = list(pairs.states), deque(pairs.states)

    def restart(self) -> None:
        self.queue = deque(self._start)

    def begin(self) -> StreamedPairs:
        """Return the stream, which continues from the positions."""
        self.pairs.states = list(self.queue)
        return self.pairs

    def take(self, batch: dict) -> None:
        """Remove the stream's message from a batch that is trained on; `ClipScratchError` if its reader failed."""
        message = batch.pop("stream")
        if "error" in message:
            raise ClipScratchError(message["error"])
        head = self.queue.popleft()
        assert head["worker"] == message["state"]["worker"]
        self.queue.append(message["state"])
        for warning in message["warnings"]:
            self.skipped += 1
            if self.skipped in (1, 10, 100, 1000) or self.skipped % 10_000 == 0:
                logger.warning("%d rows are left out so far, the last since %s", self.skipped, warning)

    def save(self, folder: Path) -> None:
        text = json.dumps({**self._readers(), "states": list(self.queue)})
        (folder / _FILE.format(self.pairs.process)).write_text(text + "\n", encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Continue from what `save` wrote; `ClipScratchError` if it is of other readers or shards."""
        before, now = json.loads((folder / _FILE.format(0)).read_text()), self._readers()
        for name, value in now.items():
            if before[name] != value:
                raise ClipScratchError(
                    f"{folder} was written by a stream of {name}={before[name]}, not {value}, and the rows are split "
                    "among its readers; resume with the same processes, dataloader_num_workers and shards, or start a "
                    "new run."
                )
        self.queue = deque(json.loads((folder / _FILE.format(self.pairs.process)).read_text())["states"])

    def _readers(self):
        pairs = self.pairs
        return {"processes": pairs.processes, "workers": pairs.workers, "shards": pairs.rows.fingerprint()}
