"""Recipes go in; what `Augment` is told of them is checked."""

import dataclasses

import pytest

from modeling_clipscratch.data.augment import Augment
from modeling_clipscratch.data.mix import Mix
from modeling_clipscratch.data.pixels import Preprocess
from modeling_clipscratch.training.arguments import DataArguments
from modeling_clipscratch.training.augmentation import build_augment


def test_every_field_of_a_recipe_reaches_the_pictures(make_model, word_processor):
    said = {
        "random_shift": 3, "random_crop_min_area": 0.4, "horizontal_flip": 0.1, "trivial_augment": 0.2,
        "random_erasing": 0.3, "mix": Mix(cutmix=0.4, mixup=0.5), "mean": [0.5] * 3, "std": [0.5] * 3,
    }  # fmt: skip
    assert said.keys() == {item.name for item in dataclasses.fields(Augment)}
    own = {name: value for name, value in said.items() if name not in {"mix", "mean", "std"}}
    data = DataArguments(**own, cutmix=0.4, mixup=0.5)
    assert build_augment(data, Preprocess(word_processor.image_processor), make_model()) == Augment(**said)


def test_a_recipe_says_nothing_of_mixing_by_default(make_model, word_processor):
    assert build_augment(DataArguments(), Preprocess(word_processor.image_processor), make_model()).mix is None


@pytest.mark.parametrize("name", ["horizontal_flip", "trivial_augment", "random_erasing"])
def test_a_probability_above_1_is_refused(make_model, word_processor, name):
    with pytest.raises(ValueError, match=f"{name}=1.5 is not a probability"):
        build_augment(DataArguments(**{name: 1.5}), Preprocess(word_processor.image_processor), make_model())


@pytest.mark.parametrize("said", [{"horizontal_flip": 0.5}, {"random_crop_min_area": 0.6}, {"random_erasing": 0.1}])
def test_changes_that_a_cache_of_one_view_would_not_have_are_refused(make_model, word_processor, said):
    preprocess, frozen = Preprocess(word_processor.image_processor), make_model(freeze_vision=True)
    (name,) = said
    with pytest.raises(ValueError, match=f"{name}=.* set image_views to 2 or more, or cache_states to false"):
        build_augment(DataArguments(**said), preprocess, frozen)
    for way in ({"image_views": 2}, {"cache_states": False}):
        assert getattr(build_augment(DataArguments(**said, **way), preprocess, frozen), name) == said[name]


@pytest.mark.parametrize(
    ("frozen", "said"), [(False, {}), (True, {"streaming": True}), (True, {"cache_states": False})]
)
def test_views_that_no_cache_would_hold_are_refused(make_model, word_processor, frozen, said):
    preprocess, model = Preprocess(word_processor.image_processor), make_model(freeze_vision=frozen)
    with pytest.raises(ValueError, match="^image_views=3 are views that the cache of a frozen vision tower holds"):
        build_augment(DataArguments(image_views=3, **said), preprocess, model)
