"""Keys and labels go in; which rows are held out is checked."""

from functools import partial

import numpy as np
import pytest

from modeling_clipscratch.data import Rows
from modeling_clipscratch.data.splits import canonical_split, carve_out, read_split

KEYS = [f"picture-{i}" for i in range(1000)]


def rows_of(labels, split="train") -> Rows:
    return Rows(
        name="toy",
        split=split,
        kind="class",
        keys=[f"{split}-{i}" for i in range(len(labels))],
        read_image=int,
        labels=np.array(labels),
        class_names=["a", "b"],
        templates=["{}"],
        origin="here",
        fingerprint="1",
    )


def test_parts_are_disjoint_and_whole():
    rest, held = carve_out(KEYS, fraction=0.1, seed=0)
    assert len(held) == 100
    assert sorted([*rest, *held]) == list(range(1000))


def test_choice_depends_on_seed_and_key_but_not_on_order():
    _, held = carve_out(KEYS, fraction=0.1, seed=0)
    _, again = carve_out(KEYS[::-1], fraction=0.1, seed=0)
    _, other = carve_out(KEYS, fraction=0.1, seed=1)
    assert {KEYS[i] for i in held} == {KEYS[::-1][i] for i in again}
    assert {KEYS[i] for i in held} != {KEYS[i] for i in other}


def test_choice_is_the_same_in_every_process():
    # Worked out once; Python's own hash() would change from run to run.
    _, held = carve_out([f"{i}" for i in range(20)], fraction=0.2, seed=0)
    assert held.tolist() == [6, 10, 11, 17]


def test_added_rows_move_few_others():
    _, before = carve_out(KEYS, fraction=0.1, seed=0)
    _, after = carve_out(KEYS + [f"new-{i}" for i in range(100)], fraction=0.1, seed=0)
    # 110 of 1,100 are held; about 10 of them are new, so at most about 10 old ones can have left.
    stayed = set(before) & set(after)
    assert len(stayed) >= 90


def test_every_class_gives_its_share_and_keeps_a_row():
    labels = np.array([0] * 90 + [1] * 10 + [2] * 2 + [3])
    _, held = carve_out(KEYS[: len(labels)], labels=labels, fraction=0.1, seed=0)
    assert np.bincount(labels[held], minlength=4).tolist() == [9, 1, 1, 0]


def test_train_and_validation_of_a_set_without_validation_share_no_row():
    readers = {"train": partial(rows_of, [0, 1] * 50)}
    train = read_split(readers, "train", dataset="toy")
    validation = read_split(readers, "val", dataset="toy")
    assert len(train) == 90 and len(validation) == 10
    assert not set(train.keys) & set(validation.keys)
    assert (train.split, validation.split) == ("train", "validation")
    assert train.fingerprint != validation.fingerprint


def test_own_validation_split_leaves_train_whole():
    readers = {"train": partial(rows_of, [0, 1]), "validation": partial(rows_of, [1, 1], "validation")}
    assert len(read_split(readers, "train", dataset="toy")) == 2
    assert read_split(readers, "dev", dataset="toy").keys == ["validation-0", "validation-1"]


def test_fraction_zero_gives_every_row():
    assert len(read_split({"train": partial(rows_of, [0, 1])}, "train", dataset="toy", validation_fraction=0)) == 2


def test_missing_test_split_lists_those_that_exist():
    with pytest.raises(ValueError, match=r"toy has no split 'test'; it has: train, validation \(taken from train\)"):
        read_split({"train": partial(rows_of, [0, 1])}, "test", dataset="toy")


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 10])
def test_fraction_outside_its_range_is_refused(fraction):
    with pytest.raises(ValueError, match=r"validation_fraction=.* is not in \[0, 1\)"):
        read_split({}, "train", dataset="toy", validation_fraction=fraction)


def test_too_few_rows_to_part_are_refused():
    with pytest.raises(ValueError, match="1 rows are too few"):
        read_split({"train": partial(rows_of, [0])}, "train", dataset="toy")


@pytest.mark.parametrize(
    ("name", "split"), [("val", "validation"), ("VALID", "validation"), ("training", "train"), ("restval", "restval")]
)
def test_other_names_of_splits(name, split):
    assert canonical_split(name) == split
