"""Read batches of items in threads: their order, how many are read ahead, and errors."""

import threading
import time

import pytest

from modeling_clipscratch.data.images.preprocess import PROBE, WORTH_A_THREAD, read_ahead


@pytest.mark.parametrize("count", [0, 1, PROBE, 8, 9, 24])
@pytest.mark.parametrize("seconds", [0, 2 * WORTH_A_THREAD])
def test_batches_are_in_the_order_of_the_items(count, seconds):
    def read(item):
        time.sleep(seconds)
        return 2 * item

    expected = [[2 * item for item in range(count)[start : start + 8]] for start in range(0, count, 8)]
    assert list(read_ahead(read, range(count), 8)) == expected


def test_one_batch_is_read_ahead_and_a_caller_that_stops_leaves_no_thread_behind():
    begun, before = [], threading.active_count()
    batches = read_ahead(begun.append, range(32), 8)
    assert not begun
    next(batches)
    deadline = time.monotonic() + 10
    while len(begun) < 16 and time.monotonic() < deadline:
        time.sleep(1e-3)
    time.sleep(0.05)
    assert begun == list(range(16))
    batches.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("broken", [8, 15])
def test_an_error_is_raised_in_the_turn_of_its_batch(broken):
    def read(item):
        if item == broken:
            raise ValueError(f"item {item}")
        return item

    batches = read_ahead(read, range(24), 8)
    assert next(batches) == list(range(8))
    with pytest.raises(ValueError, match=f"item {broken}"):
        next(batches)
