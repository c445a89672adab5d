"""Recognise split names, and choose the rows that are held out for validation."""

import numpy as np
import pytest

from modeling_clipscratch.data.splits import by_split, canonical_split, carve_out, split_of_path, split_words

KEYS = [f"image-{i}" for i in range(1000)]


def held_of(keys, **options):
    return carve_out(keys, **{"fraction": 0.1, "seed": 0, **options})[1]


def test_parts_are_disjoint_and_whole_and_depend_on_seed_and_key_alone():
    rest, held = carve_out(KEYS, fraction=0.1, seed=0)
    assert len(held) == 100 and sorted([*rest, *held]) == list(range(1000))
    again, other = held_of(KEYS[::-1]), held_of(KEYS, seed=1)
    assert {KEYS[i] for i in held} == {KEYS[::-1][i] for i in again} != {KEYS[i] for i in other}
    # Pinned, because Python's own hash() would change from process to process.
    assert held_of([f"{i}" for i in range(20)], fraction=0.2).tolist() == [6, 10, 11, 17]
    # Of 1,100 rows 110 are held; about 10 of them are new, so at most about 10 old ones can have left.
    assert len({*held} & {*held_of(KEYS + [f"new-{i}" for i in range(100)])}) >= 90


def test_every_class_gives_its_share_and_keeps_a_row():
    labels = np.array([0] * 90 + [1] * 10 + [2] * 2 + [3])
    held = held_of(KEYS[: len(labels)], labels=labels)
    assert np.bincount(labels[held], minlength=4).tolist() == [9, 1, 1, 0]


@pytest.mark.parametrize(
    ("name", "split"), [("val", "validation"), ("VALID", "validation"), ("training", "train"), ("restval", "restval")]
)
def test_other_names_of_splits(name, split):
    assert canonical_split(name) == split


def test_two_names_of_one_split_raise():
    with pytest.raises(ValueError, match="birds: 'val' and 'dev' both mean validation; rename or remove one"):
        by_split(["train", "val", "dev"], "birds")


@pytest.mark.parametrize(
    ("path", "splits"),
    [
        ("flickr30k_train.csv", {"train"}),
        ("Test", {"test"}),
        ("val2017", {"validation"}),
        ("a.train-test_0.tar", {"train", "test"}),
        ("latest.csv", set()),
        ("trainer.csv", set()),
        ("contest/evaluations.csv", set()),
        ("rows/dev-set/0.csv", {"validation"}),
    ],
)
def test_words_of_splits_in_names(path, splits):
    assert split_words(path.replace("/", " ")) == splits
    if len(splits) > 1:
        with pytest.raises(ValueError, match="means test and train; name the file and its folders after one"):
            split_of_path(path)
    else:
        assert {split_of_path(path)} - {None} == splits
