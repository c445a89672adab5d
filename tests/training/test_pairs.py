"""Read, augment or cache the images of a dataset as the arguments say."""

import dataclasses

import numpy as np
import pytest
import torch

from modeling_clipscratch.data.columns import DataOptions
from modeling_clipscratch.data.dataset import build_dataset, image_bytes, ppm
from modeling_clipscratch.data.images.augment import Augment
from modeling_clipscratch.data.images.mix import Mix
from modeling_clipscratch.data.images.preprocess import Preprocess, normalize
from modeling_clipscratch.training.features.pairs import build_augment, map_pairs, prepare, stream_pairs
from modeling_clipscratch.training.recipe.arguments import ClipScratchTrainingArguments


def test_every_field_of_the_arguments_reaches_the_images(make_model, word_processor):
    said = {
        "random_shift": 3, "random_crop_min_area": 0.4, "horizontal_flip": 0.1, "trivial_augment": 0.2,
        "random_erasing": 0.3, "mix": Mix(cutmix=0.4, mixup=0.5), "mean": [0.5] * 3, "std": [0.5] * 3,
    }  # fmt: skip
    assert said.keys() == {item.name for item in dataclasses.fields(Augment)}
    own = {name: value for name, value in said.items() if name not in {"mix", "mean", "std"}}
    args = ClipScratchTrainingArguments(**own, cutmix=0.4, mixup=0.5)
    assert build_augment(args, Preprocess(word_processor.image_processor), make_model()) == Augment(**said)


def test_no_images_are_mixed_by_default(make_model, word_processor):
    args = ClipScratchTrainingArguments()
    assert build_augment(args, Preprocess(word_processor.image_processor), make_model()).mix is None


@pytest.mark.parametrize("name", ["horizontal_flip", "trivial_augment", "random_erasing"])
def test_a_probability_above_1_is_refused(make_model, word_processor, name):
    args = ClipScratchTrainingArguments(**{name: 1.5})
    with pytest.raises(ValueError, match=f"{name}=1.5 is not a probability"):
        build_augment(args, Preprocess(word_processor.image_processor), make_model())


@pytest.mark.parametrize("said", [{"horizontal_flip": 0.5}, {"random_crop_min_area": 0.6}, {"random_erasing": 0.1}])
def test_changes_that_a_cache_of_one_view_would_not_have_are_refused(make_model, word_processor, said):
    preprocess, frozen = Preprocess(word_processor.image_processor), make_model(freeze_vision=True)
    (name,) = said
    with pytest.raises(ValueError, match=f"{name}=.* set image_views to 2 or more, or cache_features to false"):
        build_augment(ClipScratchTrainingArguments(**said), preprocess, frozen)
    for way in ({"image_views": 2}, {"cache_features": False}):
        args = ClipScratchTrainingArguments(**said, **way)
        assert getattr(build_augment(args, preprocess, frozen), name) == said[name]


@pytest.mark.parametrize(
    ("frozen", "streamed", "options"), [(False, False, {}), (True, True, {}), (True, False, {"cache_features": False})]
)
def test_views_that_no_cache_would_hold_are_refused(make_model, word_processor, frozen, streamed, options):
    preprocess, model = Preprocess(word_processor.image_processor), make_model(freeze_vision=frozen)
    args = ClipScratchTrainingArguments(image_views=3, **options)
    with pytest.raises(ValueError, match="^image_views=3 are views that the cache of a frozen vision tower holds"):
        build_augment(args, preprocess, model, streamed=streamed)


def captioned(images, captions):
    """A prepared dataset of uint8 (N, H, W, 3) images in memory."""
    keys = [str(number) for number in range(len(images))]
    return build_dataset(image_bytes(list(map(ppm, images))), keys, captions=captions)


def arguments(tmp_path, **changes):
    quiet = {"disable_tqdm": True, "use_cpu": True, "precision": "fp32"}
    return ClipScratchTrainingArguments(str(tmp_path), cache_dir=str(tmp_path), **quiet, **changes)


def test_cached_views_are_not_mirrored_where_a_caption_names_a_side(make_model, word_processor, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    dataset = captioned(images, [["the red square left of the circle"], ["a red square"]])
    args, model = arguments(tmp_path, image_views=2, horizontal_flip=1.0), make_model(freeze_vision=True)
    augment = build_augment(args, Preprocess(word_processor.image_processor), model)
    pairs = map_pairs(dataset, model, word_processor, augment, args, training=True)
    plain, other = pairs.image_features[:, 0], pairs.image_features[:, 1]
    assert not torch.allclose(plain[1], other[1], atol=1e-3)
    assert torch.allclose(plain[0], other[0], atol=1e-6)  # the same image in another batch


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
    pixels, others = (torch.from_numpy(np.stack(list(map(way, images)))) for way in (own, fast))
    assert not torch.equal(pixels, others)
    if frozen:
        features = [model.vision_tower_features(normalize(made, own.mean, own.std))[1] for made in (pixels, others)]
        distances = [(pairs.image_features[:, 0] - each).abs().max() for each in features]
        assert distances[0] < 1e-5 < distances[1]  # float32 in batches of other sizes; one level of 255
    else:
        assert torch.equal(pairs.pixels, pixels if exact else others)


def test_streamed_images_are_read_the_fast_way(make_model, word_processor, tmp_path):
    stream = captioned(np.zeros((4, 8, 8, 3), dtype=np.uint8), [["a red square"]] * 4).to_iterable_dataset()
    rows = prepare(stream, DataOptions(), "train_dataset")
    pairs = stream_pairs(rows, make_model(), word_processor, arguments(tmp_path, global_batch_size=4))
    assert not pairs.preprocess.exact


@pytest.mark.parametrize("once", [False, True])
def test_split_that_is_measured_once_is_not_decoded_by_every_process(make_model, word_processor, tmp_path, once):
    images = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    args, model = arguments(tmp_path), make_model()
    augment, dataset = (
        build_augment(args, Preprocess(word_processor.image_processor), model),
        captioned(images, [["a"]] * 4),
    )
    pairs = map_pairs(dataset, model, word_processor, augment, args, training=False, once=once)
    assert (pairs.pixels is None) == once
