"""Read batches of items in threads, one batch ahead of the caller."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise
from typing import Any

# Several threads are slower than one for reads quicker than this: each waits longer for the interpreter's lock than it
# works without it (`benchmarks.input`).
WORTH_A_THREAD = 1.5e-3  # seconds
PROBE = 4  # items of a batch that one thread reads, to measure how long one takes


def read_ahead(read: Callable[[Any], Any], items: Sequence, batch_size: int) -> Iterator[list]:
    """Yield lists of `read(item)` in the order of the items, the next one read while the caller uses the current one.

    `read` is called by other threads, several where items take long (large images, a slow disk). Its errors are raised
    in the turn of their batch.
    """

    def read_batch(batch):
        began = time.perf_counter()
        probe = [read(item) for item in batch[:PROBE]]
        quick = time.perf_counter() - began < WORTH_A_THREAD * len(probe)
        return probe + list((map if quick else readers.map)(read, batch[PROBE:]))

    with ThreadPoolExecutor() as readers, ThreadPoolExecutor(max_workers=1) as ahead:
        starts = range(0, len(items), batch_size)
        coming = (ahead.submit(read_batch, items[start : start + batch_size]) for start in starts)
        for batch, _ in pairwise(chain(coming, [None])):  # submit the next batch before waiting for this one
            yield batch.result()
