"""Load the built-in digits: sizes, balance, values."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from modeling_clipscratch.data.dataset import ImageReader
from modeling_clipscratch.data.load import load_data


def test_splits_are_disjoint_balanced_and_the_same_for_any_seed():
    data, other = load_data("digits"), load_data("digits", seed=5, validation_fraction=0.5)
    assert {split: len(part) for split, part in data.items()} == {"train": 1257, "validation": 180, "test": 360}
    assert len({key for part in data.values() for key in part["key"]}) == 1797
    assert np.bincount(data["test"]["label"]).tolist() == [36] * 10
    assert other["train"]["key"][:] == data["train"]["key"][:]


def test_pixels_are_the_grey_levels_of_scikit_learn():
    rows, bunch = load_data("digits")["validation"], load_digits()
    source = int(rows[7]["key"].removeprefix("digits-"))
    image = np.asarray(ImageReader(rows)(7))
    assert image.shape == (8, 8, 3) and image.dtype == np.uint8
    assert np.array_equal(image[:, :, 1], np.round(bunch.images[source] / 16 * 255).astype(np.uint8))
    assert rows[7]["label"] == bunch.target[source]


def test_names_and_templates_can_be_replaced():
    data = load_data("digits", class_names=list("9876543210"), templates=["number {}"])
    assert data["test"].features["label"].names == list("9876543210") and data.templates == ["number {}"]
    with pytest.raises(ValueError, match="every row needs one of the 2 classes that have names"):
        load_data("digits", class_names=["a", "b"])
