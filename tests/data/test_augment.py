"""Check shifted, flipped, cropped and erased images of chosen draws by hand."""

import math

import numpy as np
import pytest
import torch

from modeling_clipscratch.data.images import augment as module
from modeling_clipscratch.data.images.augment import Augment
from modeling_clipscratch.data.images.preprocess import normalize
from modeling_clipscratch.data.images.randomness import key_ids, sample_ids

PLAIN = {"mean": [0.0] * 3, "std": [1.0] * 3}
EVERYTHING = {"random_shift": 2, "random_crop_min_area": 0.4, "horizontal_flip": 0.5, "random_erasing": 0.5}
ONE = torch.tensor([0]), torch.tensor([True])  # a sample that may be flipped


@pytest.fixture
def draws(monkeypatch):
    """{draw number: value} that every sample gets; a missing draw is a mistake of the test."""
    table = {}
    monkeypatch.setattr(module, "uniform", lambda samples, draw: torch.full((len(samples),), table[draw]))
    return table


def grid(height=4, width=4):
    """uint8 (1, height, width, 3): 10 * row + column, the channels 0, 50 and 100 brighter."""
    grey = torch.arange(height)[:, None] * 10 + torch.arange(width)
    return torch.stack([grey, grey + 50, grey + 100], -1).to(torch.uint8)[None]


def noise(*size):
    return torch.randint(0, 256, (*size, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def samples_of(count, seed=0):
    return sample_ids(key_ids([f"row-{number}" for number in range(count)]), seed=seed, epoch=0)


def yes(count):
    return torch.ones(count, dtype=torch.bool)


def levels(made):
    """The first channel as whole numbers 0 to 255."""
    assert made.dtype == torch.float32 and made.is_contiguous()
    return (made[:, 0] * 255).round().int().tolist()


# Each number is 10 * row + column of the image's pixel. Beyond an edge its last pixel is repeated.
@pytest.mark.parametrize(
    ("down", "right", "expected"),
    [
        (0.5, 0.5, [[0, 1, 2, 3], [10, 11, 12, 13], [20, 21, 22, 23], [30, 31, 32, 33]]),
        (0.0, 0.5, [[0, 1, 2, 3], [0, 1, 2, 3], [10, 11, 12, 13], [20, 21, 22, 23]]),
        (0.99, 0.5, [[10, 11, 12, 13], [20, 21, 22, 23], [30, 31, 32, 33], [30, 31, 32, 33]]),
        (0.5, 0.0, [[0, 0, 1, 2], [10, 10, 11, 12], [20, 20, 21, 22], [30, 30, 31, 32]]),
        (0.0, 0.99, [[1, 2, 3, 3], [1, 2, 3, 3], [11, 12, 13, 13], [21, 22, 23, 23]]),
    ],
)
def test_shift_by_one_pixel_repeats_the_edge(draws, down, right, expected):
    draws.update({module._FLIP: 0.5, module._SHIFT_Y: down, module._SHIFT_X: right})
    assert levels(Augment(**PLAIN, random_shift=1)(grid(), *ONE)) == [expected]


def test_flip_mirrors_below_its_probability_and_before_a_shift(draws):
    draws.update({module._FLIP: 0.3, module._SHIFT_Y: 0.5, module._SHIFT_X: 0.5})
    mirrored = [[3, 2, 1, 0], [13, 12, 11, 10], [23, 22, 21, 20], [33, 32, 31, 30]]
    assert levels(Augment(**PLAIN, horizontal_flip=0.31)(grid(), *ONE)) == [mirrored]
    assert levels(Augment(**PLAIN, horizontal_flip=0.29)(grid(), *ONE))[0][0] == [0, 1, 2, 3]
    draws.update({module._FLIP: 0.0, module._SHIFT_X: 0.0})  # 3 2 1 0, moved to the right with its edge repeated
    assert levels(Augment(**PLAIN, random_shift=1, horizontal_flip=1.0)(grid(), *ONE))[0][0] == [3, 3, 2, 1]


def test_flip_spares_the_images_whose_caption_names_a_side():
    may_flip = torch.tensor([True, False, True, True, False, False])
    made = Augment(**PLAIN, horizontal_flip=1.0)(grid().repeat(6, 1, 1, 1), samples_of(6), may_flip)
    expected = [[3, 2, 1, 0] if allowed else [0, 1, 2, 3] for allowed in may_flip.tolist()]
    assert [rows[0] for rows in levels(made)] == expected


def bilinear_crop(channel, area, ratio_draw, y_draw, x_draw):
    """A loop over the pixels of the view: where each lies in the image, and the four pixels around that place."""
    height, width = channel.shape
    ratio = (4 / 3) ** (2 * ratio_draw - 1)
    tall, wide = min(1, math.sqrt(area / ratio)) * height, min(1, math.sqrt(area * ratio)) * width
    top, left = y_draw * (height - tall), x_draw * (width - wide)
    made = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            y = min(max(top + (i + 0.5) * tall / height - 0.5, 0), height - 1)
            x = min(max(left + (j + 0.5) * wide / width - 0.5, 0), width - 1)
            y0, x0 = min(int(y), height - 2), min(int(x), width - 2)
            fy, fx = y - y0, x - x0
            made[i, j] = (
                channel[y0, x0] * (1 - fy) * (1 - fx) + channel[y0, x0 + 1] * (1 - fy) * fx
                + channel[y0 + 1, x0] * fy * (1 - fx) + channel[y0 + 1, x0 + 1] * fy * fx
            )  # fmt: skip
    return made


@pytest.mark.parametrize(
    ("scale", "ratio", "y", "x"),
    [(0.0, 0.5, 0.0, 0.0), (0.25, 0.0, 0.3, 0.9), (0.8, 1.0, 0.99, 0.5), (1.0, 0.5, 0.7, 0.2)],  # the last: all of it
)
def test_crop_is_the_drawn_rectangle_brought_to_full_size(draws, scale, ratio, y, x):
    draws.update({module._FLIP: 0.5, module._SCALE: scale, module._RATIO: ratio, module._CROP_Y: y, module._CROP_X: x})
    images = noise(1, 6, 8)
    made = Augment(**PLAIN, random_crop_min_area=0.3)(images, *ONE)
    for channel in range(3):
        expected = bilinear_crop(images[0, :, :, channel].double().numpy() / 255, 0.3 + 0.7 * scale, ratio, y, x)
        # float32 places in the image are off by 1e-6, neighbouring pixels differ by up to 1.
        assert np.allclose(made[0, channel].numpy(), expected, atol=1e-5)


def test_crop_is_the_same_where_the_model_is_in_half_precision():
    augment, batch = Augment(**PLAIN, random_crop_min_area=0.3), (noise(4, 64, 64), torch.arange(4), yes(4))
    expected = augment(*batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augment(*batch), expected)


def test_erased_rectangle_is_the_drawn_one(draws):
    draws.update(
        {module._FLIP: 0.5, module._ERASE: 0.39, module._ERASE_AREA: 0.5, module._ERASE_RATIO: 0.5,
         module._ERASE_Y: 0.5, module._ERASE_X: 0.0}
    )  # fmt: skip
    white = torch.full((1, 20, 30, 3), 255, dtype=torch.uint8)
    # Area 0.02 + 0.23 / 2 = 0.135, its root 0.3674: 7.35 of 20 rows from 6.33 to 13.67, so the centres of rows 6 to
    # 13; 11.02 of 30 columns from 0, so columns 0 to 10.
    expected = torch.ones(20, 30)
    expected[6:14, 0:11] = 0
    assert torch.equal(Augment(mean=[0.5] * 3, std=[0.5] * 3, random_erasing=0.4)(white, *ONE)[0, 1], expected)
    assert (Augment(**PLAIN, random_erasing=0.38)(white, *ONE) == 1).all()


def test_a_sample_has_the_same_view_in_any_batch_and_for_any_global_random_state():
    images, samples, may_flip = noise(13, 9, 7), samples_of(13), torch.arange(13) % 3 > 0
    augment = Augment(mean=[0.4] * 3, std=[0.3] * 3, **EVERYTHING)
    together = augment(images, samples, may_flip)
    for chosen in (torch.tensor([5]), torch.tensor([12, 0, 7]), torch.randperm(13), torch.tensor([4, 4])):
        torch.manual_seed(len(chosen))
        assert torch.equal(augment(images[chosen], samples[chosen], may_flip[chosen]), together[chosen])
    assert not torch.equal(augment(images, samples_of(13, seed=1), may_flip), together)


@pytest.mark.parametrize(
    "images", [torch.tensor([[[[255, 0, 51]]]]).byte(), torch.rand(2, 3, 4, 5).permute(0, 2, 3, 1) * 255]
)
def test_normalize_takes_the_mean_and_deviation_of_each_channel_and_leaves_its_input(images):
    before, mean, std = images.clone(), torch.tensor([0.5, 0.5, 0.1]), torch.tensor([0.25, 0.5, 0.1])
    made = normalize(images, mean.tolist(), std.tolist())
    assert torch.equal(images, before) and made.is_contiguous()
    assert torch.allclose(made, ((before / 255 - mean) / std).permute(0, 3, 1, 2), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"horizontal_flip": 1.5}, "horizontal_flip=1.5 is not a probability; choose 0 to 1"),
        ({"horizontal_flip": -0.1}, "horizontal_flip=-0.1 is not a probability"),
        ({"random_erasing": 25}, "random_erasing=25 is not a probability"),
        *(({"random_crop_min_area": area}, f"random_crop_min_area={area} is not in") for area in (0.0, -1.0, 80.0)),
    ],
    ids=str,
)
def test_invalid_settings_raise(settings, message):
    with pytest.raises(ValueError, match=message):
        Augment(**PLAIN, **settings)
