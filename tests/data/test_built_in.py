"""Load the built-in digits and scenes: sizes, values, what splits share and must not, and what the images show."""

import itertools

import numpy as np
import pytest
from sklearn.datasets import load_digits

from modeling_clipscratch.data.dataset import ImageReader
from modeling_clipscratch.data.load import load_data
from modeling_clipscratch.data.sources import built_in
from modeling_clipscratch.data.sources.built_in import COLOURS, SHAPES, Combination, combinations, draw_scene


@pytest.fixture
def train(monkeypatch):
    """The training split with two images of each combination, which are quicker to draw than 22."""
    monkeypatch.setitem(built_in._COPIES, "train", 2)
    return load_data("scenes", splits=["train"], seed=7)["train"]


def objects_of(chosen):
    return {thing for combination in chosen for thing in combination.objects}


def test_no_combination_is_in_two_splits():
    splits = combinations()
    assert {split: len(chosen) for split, chosen in splits.items()} == {"train": 1440, "validation": 100, "test": 500}
    assert len({combination for chosen in splits.values() for combination in chosen}) == 2040


def test_no_two_combinations_mean_the_same():
    # Every relation is written from one side only, so equal meaning would need equal words.
    every = [combination for chosen in combinations().values() for combination in chosen]
    assert {combination.relation for combination in every} == {"left", "above", "row"}
    assert all(len(set(combination.objects)) == len(combination.objects) for combination in every)
    captions = [caption for combination in every for caption in combination.captions]
    assert len(set(captions)) == len(captions) == 5 * 2040


def test_train_shows_every_object_on_either_side_of_every_relation():
    train = combinations()["train"]
    assert objects_of(train) == set(itertools.product(COLOURS, SHAPES))
    for relation, count in {"left": 2, "above": 2, "row": 3}.items():
        for place in range(count):
            assert {c.objects[place] for c in train if c.relation == relation} == objects_of(train)


def test_test_captions_fit_one_image_each():
    rows = load_data("scenes", splits=["test"])["test"]
    assert len(rows) == 500 == len({tuple(captions) for captions in rows["captions"]})


def test_train_has_several_images_of_each_combination_with_equal_captions(train):
    assert len(train) == len(set(train["key"])) == 2 * 1440
    assert len({tuple(captions) for captions in train["captions"]}) == 1440
    assert train[0]["captions"] == train[1440]["captions"]
    assert train[0]["image"]["bytes"] != train[1440]["image"]["bytes"]


@pytest.mark.parametrize("relation, copy", itertools.product(["left", "above"], range(20)))
def test_first_object_is_where_the_caption_says(relation, copy):
    image = draw_scene(Combination(relation, (("red", "triangle"), ("blue", "ring"))), copy=copy).astype(int)
    red = np.argwhere(image[:, :, 0] - image[:, :, 2] > 60)
    blue = np.argwhere(image[:, :, 2] - image[:, :, 0] > 60)
    axis = {"left": 1, "above": 0}[relation]
    assert red[:, axis].max() < blue[:, axis].min()  # apart along the relation
    other = 1 - axis
    assert abs(red[:, other].mean() - blue[:, other].mean()) < 4.5  # level across it
    for pixels in (red, blue):
        assert pixels.min() >= 0 and np.ptp(pixels, axis=0).min() >= 6  # whole, and large enough to show its shape


def test_three_objects_stand_in_a_row_and_do_not_touch():
    things = (("red", "square"), ("green", "circle"), ("blue", "cross"))
    for copy in range(100):
        image = draw_scene(Combination("row", things), copy=copy).astype(int)
        lit = image.max(axis=2) > 110
        places = [np.flatnonzero((lit & (image.argmax(axis=2) == channel)).any(axis=0)) for channel in range(3)]
        assert places[0].max() < places[1].min() and places[1].max() < places[2].min(), copy


def test_an_image_depends_on_nothing_but_its_combination_and_copy(train):
    image = np.asarray(ImageReader(train)(1440 + 777))
    assert np.array_equal(image, draw_scene(combinations()["train"][777], copy=1))
    assert image.shape == (32, 32, 3) and image.dtype == np.uint8


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
    with pytest.raises(ValueError, match="digits: 2 class names for 10 classes; give one for each"):
        load_data("digits", class_names=["a", "b"])
