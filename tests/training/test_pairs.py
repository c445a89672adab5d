"""Read, augment or cache the images of a dataset as the arguments say."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_clipscratch.data.dataset import build_dataset, image_bytes, ppm
from modeling_clipscratch.data.images.augment import Augment
from modeling_clipscratch.data.images.preprocess import Preprocess, normalize
from modeling_clipscratch.training.features.pairs import build_augment, map_pairs
from modeling_clipscratch.training.recipe.arguments import ClipScratchTrainingArguments


def test_every_field_of_the_arguments_reaches_the_images(make_model, word_processor):
    expected = {
        "random_shift": 3, "random_crop_min_area": 0.4, "horizontal_flip": 0.1, "random_erasing": 0.3,
        "mean": [0.5] * 3, "std": [0.5] * 3,
    }  # fmt: skip
    assert expected.keys() == {item.name for item in dataclasses.fields(Augment)}
    own = {name: value for name, value in expected.items() if name not in {"mean", "std"}}
    args, preprocess = ClipScratchTrainingArguments(**own), Preprocess(word_processor.image_processor)
    assert build_augment(args, preprocess, make_model()) == Augment(**expected)


@pytest.mark.parametrize("change", [{"horizontal_flip": 0.5}, {"random_crop_min_area": 0.6}, {"random_erasing": 0.1}])
def test_changes_of_images_whose_features_are_cached_are_refused(make_model, word_processor, change):
    preprocess, frozen, (name,) = Preprocess(word_processor.image_processor), make_model(freeze_vision=True), change
    with pytest.raises(
        ValueError, match=f"{name}=.* changes images, but .* leave it out, or set cache_features to fal"
    ):
        build_augment(ClipScratchTrainingArguments(**change), preprocess, frozen)
    build_augment(ClipScratchTrainingArguments(**change, cache_features=False), preprocess, frozen)
    build_augment(ClipScratchTrainingArguments(**change), preprocess, frozen, streamed=True)


def captioned(images, captions):
    """A prepared dataset of uint8 (N, H, W, 3) images in memory."""
    keys = [str(number) for number in range(len(images))]
    return build_dataset(image_bytes(list(map(ppm, images))), keys, captions=captions)


def arguments(tmp_path, **changes):
    quiet = {"disable_tqdm": True, "use_cpu": True, "bf16": False}
    return ClipScratchTrainingArguments(str(tmp_path), cache_dir=str(tmp_path), **quiet, **changes)


@pytest.mark.parametrize(
    ("training", "frozen", "exact"), [(True, False, False), (True, True, True), (False, False, True)]
)
def test_images_are_the_image_processor_s_own_unless_they_are_to_train_on(
    make_model, word_processor, tmp_path, training, frozen, exact
):
    """Features of a frozen tower are cached under a key that names the image processor, so they are of its pixels."""
    images = np.random.default_rng(0).integers(0, 256, (20, 90, 61, 3), dtype=np.uint8)
    own, fast = (Preprocess(word_processor.image_processor, exact=exactly) for exactly in (True, False))
    args, model = arguments(tmp_path), make_model(freeze_vision=frozen)
    augment, dataset = build_augment(args, own, model), captioned(images, [["a red square"]] * 20)
    pairs = map_pairs(dataset, model, word_processor, augment, args, training=training)
    pixels, others = (
        torch.from_numpy(np.stack([method(Image.fromarray(image)) for image in images])) for method in (own, fast)
    )
    assert not torch.equal(pixels, others)
    if frozen:
        features = [model.vision_tower_features(normalize(made, own.mean, own.std))[1] for made in (pixels, others)]
        distances = [(pairs.image_features - each).abs().max() for each in features]
        assert distances[0] < 1e-5 < distances[1]  # float32 in batches of other sizes; one level of 255
    else:
        assert torch.equal(pairs.pixels, pixels if exact else others)


@pytest.mark.parametrize("once", [False, True])
def test_split_that_is_measured_once_is_not_decoded_by_every_process(make_model, word_processor, tmp_path, once):
    images = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    args, model, dataset = arguments(tmp_path), make_model(), captioned(images, [["a"]] * 4)
    augment = build_augment(args, Preprocess(word_processor.image_processor), model)
    pairs = map_pairs(dataset, model, word_processor, augment, args, training=False, once=once)
    assert (pairs.pixels is None) == once
