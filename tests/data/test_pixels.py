"""Pictures of odd sizes go in; what `Preprocess` makes of them is held to the image processor's own output."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, ViTImageProcessorPil

from modeling_clipscratch.data.pixels import Preprocess, normalize
from modeling_clipscratch.data.rows import BadImageError, Rows

SIZES = [(13, 9), (9, 13), (5, 31), (40, 8), (8, 8), (1, 3), (3, 7), (100, 101)]


def resizing():
    return ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4])


def cropping(shortest_edge=10):
    return CLIPImageProcessorPil(size={"shortest_edge": shortest_edge}, crop_size={"height": 8, "width": 8})


def noise(size, seed=0):
    height, width = size
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def assert_same_as_processor(processor, image):
    made = Preprocess(processor)(image)
    assert made.shape == (8, 8, 3) and made.dtype == np.uint8
    own = processor(image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
    assert np.array_equal(made.transpose(2, 0, 1), own)
    ready = processor(image, return_tensors="pt")["pixel_values"]
    preprocess = Preprocess(processor)
    found = normalize(torch.from_numpy(made.copy())[None], preprocess.mean, preprocess.std)
    # (x - 255 mean) / (255 std) against (x / 255 - mean) / std: a few float32 roundings of numbers below 4.
    assert torch.allclose(found, ready.float(), atol=2e-6, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_resized_picture_is_the_image_processor_s(size):
    assert_same_as_processor(resizing(), Image.fromarray(noise(size)))


@pytest.mark.parametrize("size", [size for size in SIZES if size[0] not in (1, 3)])
def test_array_is_taken_as_the_picture_that_it_is(size):
    assert_same_as_processor(resizing(), noise(size))
    assert np.array_equal(Preprocess(resizing())(noise(size)), Preprocess(resizing())(Image.fromarray(noise(size))))


@pytest.mark.parametrize("height", [1, 3])
def test_array_of_one_or_three_rows_is_taken_as_height_width_channels(height):
    image = noise((height, 7))
    made = Preprocess(resizing())(image)
    assert np.array_equal(made, Preprocess(resizing())(Image.fromarray(image)))


@pytest.mark.parametrize("size", [size for size in SIZES if size != (8, 8)])
def test_cropped_picture_is_the_image_processor_s(size):
    assert_same_as_processor(cropping(), Image.fromarray(noise(size)))
    assert_same_as_processor(cropping(shortest_edge=8), Image.fromarray(noise(size)))


def test_picture_of_the_crop_s_size_is_enlarged_and_cropped_too():
    assert_same_as_processor(cropping(shortest_edge=10), Image.fromarray(noise((8, 8))))


def test_size_and_statistics_are_the_processor_s():
    preprocess = Preprocess(resizing())
    assert (preprocess.image_size, preprocess.mean, preprocess.std) == ((8, 8), [0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
    assert Preprocess(cropping(shortest_edge=30)).image_size == (8, 8)


def rows_of(pictures):
    return Rows(
        name="noise", split="train", kind="caption", keys=[f"k{number}" for number in range(len(pictures))],
        read_image=lambda index: broken_or(pictures[index]), captions=[["a"]] * len(pictures), origin="a test",
        fingerprint="0",
    )  # fmt: skip


def broken_or(picture):
    if picture is None:
        raise BadImageError("k1: cannot be decoded.")
    return picture


def test_all_pictures_are_read_in_order():
    pictures = [noise((8 + number % 3, 9), seed=number) for number in range(300)]  # more than one block of reading
    pixels, kept = Preprocess(resizing()).read_all(rows_of(pictures))
    assert kept.tolist() == list(range(300)) and kept.dtype == np.int64
    preprocess = Preprocess(resizing())
    assert all(np.array_equal(pixels[number], preprocess(pictures[number])) for number in range(300))


def test_broken_picture_stops_the_reading_or_is_left_out():
    pictures = [noise((8, 8), 0), None, noise((8, 8), 2), None]
    with pytest.raises(BadImageError, match="k1: cannot be decoded"):
        Preprocess(resizing()).read_all(rows_of(pictures))
    pixels, kept = Preprocess(resizing()).read_all(rows_of(pictures), on_bad_image="skip")
    assert kept.tolist() == [0, 2]
    assert np.array_equal(pixels, np.stack([pictures[0], pictures[2]]))


def test_no_readable_picture_at_all_is_an_error():
    with pytest.raises(ValueError, match="noise, split train: none of 2 pictures can be read"):
        Preprocess(resizing()).read_all(rows_of([None, None]), on_bad_image="skip")
