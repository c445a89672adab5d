"""Small pictures and chosen draws go in; shifted, flipped, cropped and erased views are checked by hand."""

import math

import numpy as np
import pytest
import torch

from modeling_clipscratch.data.images import augment as module
from modeling_clipscratch.data.images.augment import Augment
from modeling_clipscratch.data.images.preprocess import normalize
from modeling_clipscratch.data.images.randomness import key_ids, sample_ids

PLAIN = {"mean": [0.0] * 3, "std": [1.0] * 3}


@pytest.fixture
def draws(monkeypatch):
    """{draw number: value} that every sample gets; a draw that is not there is a mistake of the test."""
    table = {}
    monkeypatch.setattr(module, "uniform", lambda samples, draw: torch.full((len(samples),), table[draw]))
    return table


def picture(height=4, width=4):
    """uint8 (1, height, width, 3): 10 * row + column, the channels 0, 50 and 100 brighter."""
    grey = torch.arange(height)[:, None] * 10 + torch.arange(width)
    return torch.stack([grey, grey + 50, grey + 100], -1).to(torch.uint8)[None]


def samples_of(count, seed=0):
    return sample_ids(key_ids([f"row-{number}" for number in range(count)]), seed=seed, epoch=0)


def view(augment, images, may_flip=True):
    """The first channel of the views, as whole numbers 0 to 255."""
    made = augment(images, torch.arange(len(images)), torch.full((len(images),), may_flip))
    assert made.dtype == torch.float32 and made.is_contiguous()
    return (made[:, 0] * 255).round().int().tolist()


def test_without_augmentation_a_view_is_the_normalised_picture():
    augment = Augment(mean=[0.5, 0.25, 0.0], std=[0.5, 0.25, 1.0])
    made = augment(picture(), torch.tensor([0]), torch.tensor([True]))
    values = picture()[0].double().numpy() / 255
    expected = (values - [0.5, 0.25, 0.0]) / [0.5, 0.25, 1.0]
    assert made.shape == (1, 3, 4, 4)
    assert np.allclose(made[0].numpy().transpose(1, 2, 0), expected, atol=1e-6)  # float32 numbers below 1


# Each number is 10 * row + column of the picture's pixel. Beyond an edge its last pixel is repeated.
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
    assert view(Augment(**PLAIN, random_shift=1), picture()) == [expected]


def test_shift_further_than_the_picture_stays_inside_it(draws):
    draws.update({module._FLIP: 0.5, module._SHIFT_Y: 0.0, module._SHIFT_X: 0.99})
    [rows] = view(Augment(**PLAIN, random_shift=9), picture(2, 2))
    assert {pixel for row in rows for pixel in row} <= {0, 1, 10, 11}


def test_every_shift_within_the_limit_occurs():
    column = torch.arange(9, dtype=torch.uint8)[None, None, :, None].expand(300, 1, 9, 3)
    augment = Augment(**PLAIN, random_shift=2)
    made = augment(column, samples_of(300), torch.ones(300, dtype=torch.bool))
    middle = (made[:, 0, 0, 4] * 255).round().int() - 4
    counts = torch.bincount(middle + 2, minlength=5)
    assert len(counts) == 5 and counts.min() > 30  # five shifts, 60 each by chance; 30 is four deviations off


def test_flip_mirrors_and_happens_below_its_probability(draws):
    draws.update({module._FLIP: 0.3, module._SHIFT_Y: 0.5, module._SHIFT_X: 0.5})
    mirrored = [[3, 2, 1, 0], [13, 12, 11, 10], [23, 22, 21, 20], [33, 32, 31, 30]]
    assert view(Augment(**PLAIN, horizontal_flip=0.31), picture()) == [mirrored]
    assert view(Augment(**PLAIN, horizontal_flip=0.29), picture())[0][0] == [0, 1, 2, 3]


def test_flip_spares_the_pictures_whose_caption_names_a_side():
    images = picture().repeat(6, 1, 1, 1)
    may_flip = torch.tensor([True, False, True, True, False, False])
    made = Augment(**PLAIN, horizontal_flip=1.0)(images, samples_of(6), may_flip)
    first = (made[:, 0, 0] * 255).round().int().tolist()
    assert first == [[3, 2, 1, 0] if allowed else [0, 1, 2, 3] for allowed in may_flip.tolist()]


def test_mirrored_picture_is_what_is_shifted(draws):
    draws.update({module._FLIP: 0.0, module._SHIFT_Y: 0.5, module._SHIFT_X: 0.0})
    # The mirror image of the first row is 3 2 1 0; moved to the right with its edge repeated it is 3 3 2 1.
    [rows] = view(Augment(**PLAIN, random_shift=1, horizontal_flip=1.0), picture())
    assert rows[0] == [3, 3, 2, 1]


def bilinear_crop(channel, area, ratio_draw, y_draw, x_draw):
    """A loop over the pixels of the view: where each lies in the picture, and the four pixels around that place."""
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
    ("scale", "ratio", "y", "x"), [(0.0, 0.5, 0.0, 0.0), (0.25, 0.0, 0.3, 0.9), (0.8, 1.0, 0.99, 0.5)]
)
def test_crop_is_the_drawn_rectangle_brought_to_full_size(draws, scale, ratio, y, x):
    draws.update({module._FLIP: 0.5, module._SCALE: scale, module._RATIO: ratio, module._CROP_Y: y, module._CROP_X: x})
    images = torch.randint(0, 256, (1, 6, 8, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    made = Augment(**PLAIN, random_crop_min_area=0.3)(images, torch.tensor([0]), torch.tensor([True]))
    for channel in range(3):
        source = images[0, :, :, channel].double().numpy() / 255
        expected = bilinear_crop(source, 0.3 + 0.7 * scale, ratio, y, x)
        # float32 places in the picture are off by 1e-6, neighbouring pixels differ by up to 1.
        assert np.allclose(made[0, channel].numpy(), expected, atol=1e-5)


def test_crop_is_the_same_where_the_model_is_in_half_precision():
    images = torch.randint(0, 256, (4, 64, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    augment = Augment(**PLAIN, random_crop_min_area=0.3)
    given = images, torch.arange(4), torch.ones(4, dtype=torch.bool)
    expected = augment(*given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augment(*given), expected)


def test_crop_of_the_whole_picture_leaves_it_as_it_is(draws):
    draws.update({module._FLIP: 0.5, module._SCALE: 1.0, module._RATIO: 0.5, module._CROP_Y: 0.7, module._CROP_X: 0.2})
    assert view(Augment(**PLAIN, random_crop_min_area=0.3), picture())[0][3] == [30, 31, 32, 33]


def test_erased_rectangle_is_the_drawn_one(draws):
    draws.update(
        {module._FLIP: 0.5, module._ERASE: 0.39, module._ERASE_AREA: 0.5, module._ERASE_RATIO: 0.5,
         module._ERASE_Y: 0.5, module._ERASE_X: 0.0}
    )  # fmt: skip
    white = torch.full((1, 20, 30, 3), 255, dtype=torch.uint8)
    augment = Augment(mean=[0.5] * 3, std=[0.5] * 3, random_erasing=0.4)
    made = augment(white, torch.tensor([0]), torch.tensor([True]))
    # Area 0.02 + 0.23 / 2 = 0.135, its root 0.3674: 7.35 of 20 rows from 6.33 to 13.67, so the centres of rows 6 to
    # 13; 11.02 of 30 columns from 0, so columns 0 to 10.
    expected = torch.ones(20, 30)
    expected[6:14, 0:11] = 0
    assert torch.equal(made[0, 1], expected)
    assert (Augment(**PLAIN, random_erasing=0.38)(white, torch.tensor([0]), torch.tensor([True])) == 1).all()


def test_share_of_erased_pictures_and_of_their_area_is_as_documented():
    white = torch.full((800, 40, 40, 3), 255, dtype=torch.uint8)
    augment = Augment(mean=[0.5] * 3, std=[0.5] * 3, random_erasing=0.3)
    made = augment(white, samples_of(800), torch.ones(800, dtype=torch.bool))
    share = (made[:, 0] == 0).float().mean((1, 2))
    # 800 draws of probability 0.3: one deviation is 0.016.
    assert (share > 0).float().mean().item() == pytest.approx(0.3, abs=0.05)
    erased = share[share > 0]
    # Whole pixels: a side of 3.3 to 34.6 pixels is off by less than one, so the area by less than 40 %.
    assert erased.min() > 0.02 * 0.6 and erased.max() < 0.25 * 1.2
    assert erased.mean().item() == pytest.approx(0.135, abs=0.02)  # 240 draws, deviation 0.0665 / 240 ** 0.5 = 0.0043


EVERYTHING = {"random_shift": 2, "random_crop_min_area": 0.4, "horizontal_flip": 0.5, "random_erasing": 0.5}


def test_sample_has_the_same_view_in_any_batch():
    images = torch.randint(0, 256, (13, 9, 7, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    samples, may_flip = samples_of(13), torch.arange(13) % 3 > 0
    augment = Augment(mean=[0.4] * 3, std=[0.3] * 3, **EVERYTHING)
    together = augment(images, samples, may_flip)
    for chosen in (torch.tensor([5]), torch.tensor([12, 0, 7]), torch.randperm(13), torch.tensor([4, 4])):
        assert torch.equal(augment(images[chosen], samples[chosen], may_flip[chosen]), together[chosen])
    assert not torch.equal(augment(images, samples_of(13, seed=1), may_flip), together)


def test_global_random_state_has_no_say():
    images, flip = picture().repeat(5, 1, 1, 1), torch.ones(5, dtype=torch.bool)
    augment = Augment(**PLAIN, **EVERYTHING)
    torch.manual_seed(1)
    first = augment(images, samples_of(5), flip)
    torch.manual_seed(2)
    assert torch.equal(augment(images, samples_of(5), flip), first)


def test_one_augmentation_more_leaves_the_draws_of_the_others():
    images = torch.randint(1, 256, (40, 8, 8, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    flip, settings = torch.ones(40, dtype=torch.bool), {"random_shift": 2, "horizontal_flip": 0.5}
    without = Augment(**PLAIN, **settings)(images, samples_of(40), flip)
    erased = Augment(**PLAIN, **settings, random_erasing=1.0)(images, samples_of(40), flip)
    kept = erased != 0
    assert 0.5 < kept.float().mean() < 0.99
    assert torch.equal(erased[kept], without[kept])


@pytest.mark.parametrize(
    "said",
    [{"horizontal_flip": 1.5}, {"horizontal_flip": -0.1}, {"random_erasing": 25}],
    ids=lambda said: next(iter(said)),
)
def test_what_is_no_probability_is_refused(said):
    [(name, value)] = said.items()
    with pytest.raises(ValueError, match=f"{name}={value} is not a probability; choose 0 to 1"):
        Augment(**PLAIN, **said)


def test_normalize_takes_each_channel_s_mean_and_deviation():
    images = torch.tensor([[[[255, 0, 51]]]], dtype=torch.uint8)
    made = normalize(images, [0.5, 0.5, 0.1], [0.25, 0.5, 0.1])
    assert made.shape == (1, 3, 1, 1)
    assert made.flatten().tolist() == pytest.approx([2.0, -1.0, 1.0], abs=1e-6)


def test_normalize_leaves_float_pictures_as_they_are():
    images = torch.rand(2, 3, 4, 5).permute(0, 2, 3, 1) * 255  # so that planes of floats need no copy
    before = images.clone()
    made = normalize(images, [0.5] * 3, [0.5, 0.25, 0.1])
    assert torch.equal(images, before) and made.is_contiguous()
    std = torch.tensor([0.5, 0.25, 0.1]) * 255
    assert torch.equal(made, ((before - 127.5) / std).permute(0, 3, 1, 2))


@pytest.mark.parametrize("area", [0.0, -1.0, 80.0])
def test_crop_of_no_share_is_refused(area):
    with pytest.raises(ValueError, match=f"random_crop_min_area={area} is not in"):
        Augment(**PLAIN, random_crop_min_area=area)
