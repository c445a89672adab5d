<<<<<<< HEAD
"""Split names, and which rows are held out for validation."""
=======
"""Keys and labels go in; which rows are held out is checked."""
>>>>>>> rebuild

import numpy as np
import pytest

<<<<<<< HEAD
from modeling_clipscratch.data.splits import by_split, canonical_split, carve_out
=======
from modeling_clipscratch.data import DataOptions
from modeling_clipscratch.data.dataset import build_dataset, image_bytes
from modeling_clipscratch.data.load import load_splits
from modeling_clipscratch.data.splits import Split, canonical_split, carve_out, split_of_path, split_words
>>>>>>> rebuild

KEYS = [f"picture-{i}" for i in range(1000)]


<<<<<<< HEAD
def held_of(keys, **options):
    return carve_out(keys, **{"fraction": 0.1, "seed": 0, **options})[1]
=======
def load(labels, **options):
    """Loads a source of {split: labels}."""

    def open_split(split, labels):
        keys = [f"{split}-{row}" for row in range(len(labels))]
        return build_dataset(image_bytes([b""] * len(keys)), keys, labels=labels, class_names=["a", "b"])

    source = {split: Split(lambda s=split, r=rows: open_split(s, r), "here") for split, rows in labels.items()}
    return load_splits(source, "toy", DataOptions(), **options)
>>>>>>> rebuild


def test_parts_are_disjoint_and_whole():
    rest, held = carve_out(KEYS, fraction=0.1, seed=0)
    assert len(held) == 100
    assert sorted([*rest, *held]) == list(range(1000))


def test_choice_depends_on_seed_and_key_but_not_on_order():
    held, again, other = held_of(KEYS), held_of(KEYS[::-1]), held_of(KEYS, seed=1)
    assert {KEYS[i] for i in held} == {KEYS[::-1][i] for i in again}
    assert {KEYS[i] for i in held} != {KEYS[i] for i in other}


def test_choice_is_the_same_in_every_process():
    # Worked out once; Python's own hash() would change from run to run.
    assert held_of([f"{i}" for i in range(20)], fraction=0.2).tolist() == [6, 10, 11, 17]


def test_added_rows_move_few_others():
    # 110 of 1,100 are held; about 10 of them are new, so at most about 10 old ones can have left.
    assert len({*held_of(KEYS)} & {*held_of(KEYS + [f"new-{i}" for i in range(100)])}) >= 90


def test_every_class_gives_its_share_and_keeps_a_row():
    labels = np.array([0] * 90 + [1] * 10 + [2] * 2 + [3])
    held = held_of(KEYS[: len(labels)], labels=labels)
    assert np.bincount(labels[held], minlength=4).tolist() == [9, 1, 1, 0]


<<<<<<< HEAD
=======
def test_train_and_validation_of_a_set_without_validation_share_no_row():
    data = load({"train": [0, 1] * 50})
    assert {split: len(part) for split, part in data.items()} == {"train": 90, "validation": 10}
    assert not {*data["train"]["key"]} & {*data["validation"]["key"]}
    assert (data["train"].split, data["validation"].split) == ("train", "validation")


def test_own_validation_split_leaves_train_whole():
    data = load({"train": [0, 1], "validation": [1, 1]}, splits=["train", "dev"])
    assert len(data["train"]) == 2 and data["validation"]["key"][:] == ["validation-0", "validation-1"]


def test_fraction_zero_gives_every_row():
    assert len(load({"train": [0, 1]}, splits=["train"], validation_fraction=0)["train"]) == 2


@pytest.mark.parametrize(
    ("labels", "options", "sentence"),
    [
        (
            {"train": [0, 1]},
            {"splits": ["test"]},
            r"toy has no split 'test'; it has: train, validation \(taken from tr",
        ),
        ({"train": [0]}, {}, "1 rows are too few"),
        *(({}, {"validation_fraction": f}, r"validation_fraction=.* is not in \[0, 1\)") for f in (-0.1, 1.0, 10)),
    ],
)
def test_what_cannot_be_parted_is_refused(labels, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        load(labels, **options)


>>>>>>> rebuild
@pytest.mark.parametrize(
    ("name", "split"), [("val", "validation"), ("VALID", "validation"), ("training", "train"), ("restval", "restval")]
)
def test_other_names_of_splits(name, split):
    assert canonical_split(name) == split


<<<<<<< HEAD
def test_two_names_of_one_split_are_refused():
    with pytest.raises(ValueError, match="birds: 'val' and 'dev' both stand for validation; rename or remove one"):
        by_split(["train", "val", "dev"], "birds")
=======
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
        with pytest.raises(ValueError, match="stands for test and for train; name the file and its folders after one"):
            split_of_path(path)
    else:
        assert {split_of_path(path)} - {None} == splits
>>>>>>> rebuild
