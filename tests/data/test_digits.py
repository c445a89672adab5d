"""The built-in digits: sizes, balance, values."""

import pickle

import numpy as np
from sklearn.datasets import load_digits

from modeling_clipscratch.data import load_rows


def test_splits_have_their_sizes_and_share_no_picture():
    rows = {split: load_rows("digits", split) for split in ("train", "validation", "test")}
    assert {split: len(found) for split, found in rows.items()} == {"train": 1257, "validation": 180, "test": 360}
    assert len({key for found in rows.values() for key in found.keys}) == 1797
    assert np.bincount(rows["test"].labels).tolist() == [36] * 10


def test_pixels_are_the_grey_levels_of_scikit_learn():
    rows, bunch = load_rows("digits", "validation"), load_digits()
    source = int(rows.keys[7].removeprefix("digits-"))
    image = rows.read_image(7)
    assert image.shape == (8, 8, 3) and image.dtype == np.uint8
    assert np.array_equal(image[:, :, 1], np.round(bunch.images[source] / 16 * 255).astype(np.uint8))
    assert rows.labels[7] == bunch.target[source]


def test_neither_seed_nor_fraction_changes_the_splits():
    changed = load_rows("digits", "train", seed=5, validation_fraction=0.5)
    assert changed.keys == load_rows("digits", "train").keys


def test_rows_can_be_sent_to_a_worker():
    rows = load_rows("digits", "test")
    again = pickle.loads(pickle.dumps(rows))
    assert np.array_equal(again.read_image(3), rows.read_image(3))


def test_names_and_templates_can_be_replaced():
    rows = load_rows("digits", "test", class_names=list("0123456789"), templates=["number {}"])
    assert rows[0]["captions"] == [f"number {rows.labels[0]}"]
