"""Read one shard of a `datasets.IterableDataset` row by row, from a saved state on, with further tries."""

import logging
import time
from collections.abc import Iterator

import datasets
from datasets.utils.file_utils import CONNECTION_ERRORS_TO_RETRY

from ...hub.errors_clipscratch import ClipScratchError
from ..images.decode import BadImageError

logger = logging.getLogger(__name__)

WAITS = (1, 2, 4, 8, 16)  # seconds before each further try; for dropped connections `datasets` has its own before these
MAY_PASS = (OSError, *CONNECTION_ERRORS_TO_RETRY)
_AT_ONCE = 32  # rows that `datasets` hands over together


class ShardError(ClipScratchError):
    """A shard, or a sample of it, that cannot be read; the message names it, the reason and the remedy."""


def shard_names(stream: datasets.IterableDataset) -> list[str]:
    """(S,) the file of each shard; `shard 3` where a stream is not made of files.

    `datasets` has no public way to see them.
    """
    source, count = stream._ex_iterable, stream.num_shards
    while hasattr(source, "ex_iterable"):
        source = source.ex_iterable
    lists = source.kwargs.values() if hasattr(source, "kwargs") else ()
    files = (value for value in lists if isinstance(value, list) and len(value) == count)
    names = next((value for value in files if all(isinstance(name, str) for name in value)), None)
    return list(names or (f"shard {number}" for number in range(count)))


def check_resumable(stream: datasets.IterableDataset, name: str) -> None:
    """Raise `ClipScratchError` if a stream cannot be resumed, or is split among processes already."""
    if stream._distributed is not None:
        raise ClipScratchError(f"{name} was split by node; give the whole stream, which the processes share here.")
    layers = [stream._ex_iterable]
    for layer in layers:
        layers += getattr(layer, "ex_iterables", None) or [*filter(None, [getattr(layer, "ex_iterable", None)])]
        if type(layer).__name__ == "BufferShuffledExamplesIterable":  # its state lacks the rows in its buffer
            raise ClipScratchError(
                f"{name} was shuffled with a buffer, which a run that stopped cannot resume; leave `shuffle` out: "
                "--stream_shuffle_rows shuffles rows as they are read."
            )


def undecoded(stream: datasets.IterableDataset) -> datasets.IterableDataset:
    """A stream whose features are known, with its images as they are stored."""
    decodes = any(getattr(feature, "decode", False) for feature in stream.features.values())
    return stream.decode(False) if decodes else stream


def shard_rows(stream: datasets.IterableDataset, shard: int, state: dict | None = None) -> Iterator[tuple[dict, dict]]:
    """Read the rows of one shard, the same in the main process and in a worker of a `DataLoader`.

    A read that fails is tried again where it failed.

    Args:
        stream: S shards.
        shard: in [0, S).
        state: where to resume: what came with the last row that was read. Default: the beginning.

    Yields: a row, whose images are not decoded, and the state behind it, which JSON can hold.

    Raises:
        ShardError: one sentence that names the shard, if it stays unreadable, is missing or is damaged.

    >>> stream = datasets.Dataset.from_dict({"key": ["a", "b", "c"]}).to_iterable_dataset(num_shards=2)
    >>> (_, state), *rest = shard_rows(stream, 0)
    >>> [row for row, _ in rest] == [row for row, _ in shard_rows(stream, 0, state)] == [{"key": "b"}]
    True
    """
    name, tries = shard_names(stream)[shard], 0
    stream = undecoded(stream) if stream.features else stream
    while True:
        try:
            for row, behind in _read(stream.shard(num_shards=stream.num_shards, index=shard), state):
                yield row, behind
                state, tries = behind, 0
            return
        except MAY_PASS as error:
            if isinstance(error, FileNotFoundError | PermissionError) or tries == len(WAITS):
                raise shard_error(name, error, tries) from error
            logger.warning("%s: reading fails (%s); once more in %d s.", name, _reason(error), WAITS[tries])
            time.sleep(WAITS[tries])
            tries += 1
        except (ShardError, BadImageError):
            raise
        except Exception as error:  # every format's reader has errors of its own
            raise shard_error(name, error) from error


def _read(one, state):
    # `datasets` hands over batches, and its state is exact between them.
    skip = 0
    if state is not None:
        one.load_state_dict(state["state"])
        skip = state["skip"]
    before = one.state_dict() if state is None else state["state"]
    # Not iter(one): in a worker of a DataLoader that gives a part of the shards only, parted by rules of its own.
    for columns in one.iter(batch_size=_AT_ONCE):
        for number, cells in enumerate(zip(*columns.values(), strict=True), 1):
            if number > skip:
                yield dict(zip(columns, cells, strict=True)), {"state": before, "skip": number}
        before, skip = one.state_dict(), 0


def shard_error(name: str, error: Exception, tries: int = 0) -> ShardError:
    """What to raise for an error of a shard's reader."""
    if isinstance(error, ShardError):
        return error
    if isinstance(error, FileNotFoundError | PermissionError):
        return ShardError(f"{name}: cannot be opened ({_reason(error)}); restore the shard.")
    if isinstance(error, MAY_PASS):
        return ShardError(
            f"{name}: cannot be read on ({_reason(error)}), tried {tries + 1} times; check the connection or the disk, "
            "then resume with --resume_from_checkpoint auto."
        )
    return ShardError(f"{name}: damaged or cut short ({_reason(error)}); fetch or write the shard again.")


def _reason(error):
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
