"""Items and a way to read one go in; batches of what was read come out, the next one read meanwhile."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise
from typing import Any

# Of reads quicker than this, several threads do fewer than one: each waits longer for the interpreter's lock than it
# works without it (`benchmarks.input`).
WORTH_A_THREAD = 1.5e-3  # seconds
PROBE = 4  # items of a batch that one thread reads, to know how long one takes


def read_ahead(read: Callable[[Any], Any], items: Sequence, batch_size: int) -> Iterator[list]:
    """Batches of `read(item)` in the order of the items; the next is read while the caller works on this one.

    Several threads share a batch whose items take long, such as large pictures or those of a slow disk.

    Args:
        read: called by other threads, one item at a time; what it raises comes out in the batch's turn.
        items: N of them.
        batch_size: B; the last batch may be smaller.

    >>> [batch for batch in read_ahead(str.upper, ["a", "b", "c"], 2)]
    [['A', 'B'], ['C']]
    """

    def read_batch(batch):
        began = time.perf_counter()
        probe = [read(item) for item in batch[:PROBE]]
        quick = time.perf_counter() - began < WORTH_A_THREAD * len(probe)
        return probe + list((map if quick else readers.map)(read, batch[PROBE:]))

    with ThreadPoolExecutor() as readers, ThreadPoolExecutor(max_workers=1) as ahead:
        starts = range(0, len(items), batch_size)
        coming = (ahead.submit(read_batch, items[start : start + batch_size]) for start in starts)
        for batch, _ in pairwise(chain(coming, [None])):  # the next is asked for before this one is waited for
            yield batch.result()
