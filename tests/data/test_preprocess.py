"""Prepare images of any size as the image processor does, and read them ahead in threads."""

import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from transformers import CLIPImageProcessorPil, ConvNextImageProcessorPil, ViTImageProcessorPil

from modeling_clipscratch.data.dataset import ImageReader, build_dataset, image_bytes, image_files, ppm
from modeling_clipscratch.data.images.decode import BadImageError, decode_image
from modeling_clipscratch.data.images.preprocess import PROBE, WORTH_A_THREAD, Preprocess, normalize, read_ahead

SIZES = [(13, 9), (9, 13), (5, 31), (40, 8), (8, 8), (1, 3), (3, 7), (100, 101)]


def resizing():
    return ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4])


def cropping(shortest_edge=10):
    return CLIPImageProcessorPil(size={"shortest_edge": shortest_edge}, crop_size={"height": 8, "width": 8})


def noise(size, seed=0):
    height, width = size
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def plain():
    return ViTImageProcessorPil(size={"height": 8, "width": 8}, do_normalize=False)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("processor", [resizing(), cropping(10), cropping(8), plain()], ids=["", "10", "8", "plain"])
def test_pixels_are_those_of_the_image_processor(processor, size):
    made = Preprocess(processor)(Image.fromarray(noise(size)))
    assert made.shape == (8, 8, 3) and made.dtype == np.uint8
    own = processor(Image.fromarray(noise(size)), do_rescale=False, do_normalize=False, return_tensors="np")
    assert np.array_equal(made.transpose(2, 0, 1), own["pixel_values"][0])
    ready = processor(Image.fromarray(noise(size)), return_tensors="pt")["pixel_values"]
    preprocess = Preprocess(processor)
    normalised = normalize(torch.from_numpy(made.copy())[None], preprocess.mean, preprocess.std)
    # (x - 255 mean) / (255 std) against (x / 255 - mean) / std: a few float32 roundings of numbers below 4.
    assert torch.allclose(normalised, ready.float(), atol=2e-6, rtol=0)


UNSIZED = {"size": {"shortest_edge": 8}, "do_center_crop": False}


@pytest.mark.parametrize(
    ("processor", "changes"),
    [
        *((resizing(), own) for own in ({"rescale_factor": 1 / 127.5}, {"do_rescale": False}, {"image_mean": None})),
        (CLIPImageProcessorPil(**UNSIZED), {}),
        (CLIPImageProcessorPil(do_center_crop=False), {"do_resize": False}),
    ],
    ids=str,
)
def test_image_processor_whose_images_would_be_wrong_or_differ_in_shape_raises(processor, changes):
    vars(processor).update(changes)
    with pytest.raises(ValueError, match="ImageProcessorPil does more .*; give its size a height and a width"):
        Preprocess(processor)


def dataset_of(images):
    """Images in memory; `None` is a broken one."""
    files = image_bytes([b"broken" if image is None else ppm(image) for image in images])
    dataset = build_dataset(files, [f"k{row}" for row in range(len(images))], captions=[["a"]] * len(images))
    dataset.info.dataset_name = "noise"
    return dataset


def test_all_images_are_read_in_order():
    images = [noise((8 + number % 3, 9), seed=number) for number in range(300)]  # more than one block of reading
    preprocess = Preprocess(resizing())
    pixels, kept = preprocess.read_all(dataset_of(images))
    assert kept.tolist() == list(range(300)) and kept.dtype == np.int64
    assert all(np.array_equal(pixels[number], preprocess(Image.fromarray(images[number]))) for number in range(300))


def test_broken_image_stops_the_reading_or_is_left_out(caplog):
    images, preprocess = [noise((8, 8), 0), None, noise((8, 8), 2), None], Preprocess(resizing())
    with pytest.raises(BadImageError, match="noise: k1: cannot be decoded"):
        preprocess.read_all(dataset_of(images))
    pixels, kept = preprocess.read_all(dataset_of(images), on_bad_row="skip")
    assert kept.tolist() == [0, 2]
    assert np.array_equal(pixels, np.stack([images[0], images[2]]))


def test_no_readable_image_at_all_is_an_error():
    with pytest.raises(ValueError, match="noise: none of 2 images can be read; noise: k0: cannot be decoded"):
        Preprocess(resizing()).read_all(dataset_of([None, None]), on_bad_row="skip")


# Images to train on: not the image processor's own pixels, but near them


BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC


def differences(processor, images):
    exact, fast = Preprocess(processor), Preprocess(processor, exact=False)
    made = [(exact(image).astype(int), fast(image)) for image in images]
    assert all(fast.dtype == np.uint8 and fast.flags.c_contiguous for _, fast in made)
    return np.stack([np.abs(own - fast) for own, fast in made])


def resized_processors(side):
    square = {"height": side, "width": side}
    for resample in (BILINEAR, BICUBIC):
        yield ViTImageProcessorPil(size=square, resample=resample)
        yield ViTImageProcessorPil(size={"height": side, "width": side // 2}, resample=resample)
        for edge in (side, side + side // 7):
            yield CLIPImageProcessorPil(size={"shortest_edge": edge}, crop_size=square, resample=resample)


@pytest.mark.parametrize("processor", list(resized_processors(28)), ids=lambda processor: str(dict(processor.size)))
def test_fast_pixels_are_near_the_image_processor_s(processor):
    # Noise is the worst there is: torch weighs with 16 bits, Pillow with 22, and both round between the two passes.
    sizes = ((90, 61), (61, 90), (37, 37), (29, 200), (10, 9), (28, 14))
    found = differences(processor, [Image.fromarray(noise(size)) for size in sizes])
    assert found.max() <= 6 and found.mean() < 0.1
    assert found.any()  # else the fast way was not taken


@pytest.mark.parametrize(
    "processor",
    [
        ViTImageProcessorPil(size={"height": 28, "width": 28}, resample=Image.Resampling.LANCZOS),
        ViTImageProcessorPil(size={"height": 28, "width": 28}, do_resize=False, do_center_crop=True, crop_size=28),
        CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 28, "width": 28}),  # pads
        ConvNextImageProcessorPil(size={"shortest_edge": 28}),  # resizes to 32 and crops
    ],
    ids=["another filter", "no resizing", "padding", "a way of its own"],
)
def test_other_image_processors_are_left_to_their_own_way(processor):
    assert Preprocess(processor, exact=False).exact  # large JPEGs are not read at a part of their scale either
    assert not differences(processor, [Image.fromarray(noise(size)) for size in ((61, 90), (90, 61))]).any()


def files_of(tmp_path, images):
    paths = [str(tmp_path / f"{number}.jpg") for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        image.save(path, quality=95)
    return build_dataset(image_files(paths), paths, captions=[["a"]] * len(paths))


def smooth(size):
    return Image.fromarray(noise(size)).filter(ImageFilter.GaussianBlur(6))


def test_large_jpegs_are_read_at_a_part_of_their_scale_for_training_only(tmp_path):
    images = ImageReader(files_of(tmp_path, [smooth((400, 300))]))
    seen, exact, fast = [], Preprocess(resizing()), Preprocess(resizing(), exact=False)
    for way in (exact, fast):
        own = way.decode
        way.decode = lambda data, *, name, own=own: seen.append(own(data, name=name)) or seen[-1]
    made = [way.read(images, 0) for way in (exact, fast)]
    assert seen[0].size == (300, 400) and seen[1].size == (38, 50)  # an eighth, 3 times 8 pixels at least
    assert np.array_equal(made[0], exact(decode_image(tmp_path / "0.jpg", name="0")))
    assert np.abs(made[0].astype(int) - made[1]).mean() < 2


def test_images_are_resized_in_threads_and_in_forked_workers(tmp_path):
    """Each of them is to take one thread of torch's, and a fork after resizing is to find no lock that is held."""
    dataset = files_of(tmp_path, [smooth((60, 50)) for _ in range(8)])
    fast = Preprocess(resizing(), exact=False)
    here, kept = fast.read_all(dataset)
    items = [(fast, ImageReader(dataset), index) for index in kept.tolist()]
    loader = torch.utils.data.DataLoader(
        items, batch_size=None, num_workers=2, collate_fn=read_one, multiprocessing_context="fork", timeout=60
    )
    assert np.array_equal(np.stack(list(loader)), here)


def read_one(item):
    fast, images, index = item
    return fast.read(images, index)


@pytest.mark.parametrize("count", [0, 1, PROBE, 8, 9, 24])
@pytest.mark.parametrize("seconds", [0, 2 * WORTH_A_THREAD])
def test_batches_are_in_the_order_of_the_items(count, seconds):
    def read(item):
        time.sleep(seconds)
        return 2 * item

    expected = [[2 * item for item in range(count)[start : start + 8]] for start in range(0, count, 8)]
    assert list(read_ahead(read, range(count), 8)) == expected


def test_one_batch_is_read_ahead_and_a_caller_that_stops_leaves_no_thread_behind():
    begun, before = [], threading.active_count()
    batches = read_ahead(begun.append, range(32), 8)
    assert not begun
    next(batches)
    deadline = time.monotonic() + 10
    while len(begun) < 16 and time.monotonic() < deadline:
        time.sleep(1e-3)
    time.sleep(0.05)
    assert begun == list(range(16))
    batches.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("broken", [8, 15])
def test_an_error_is_raised_in_the_turn_of_its_batch(broken):
    def read(item):
        if item == broken:
            raise ValueError(f"item {item}")
        return item

    batches = read_ahead(read, range(24), 8)
    assert next(batches) == list(range(8))
    with pytest.raises(ValueError, match=f"item {broken}"):
        next(batches)
