"""Pictures and levels go in; every operation is held to Pillow's, the draws to their shares."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from modeling_clipscratch.data.images import trivial_augment as module
from modeling_clipscratch.data.images.augment import Augment
from modeling_clipscratch.data.images.randomness import key_ids, sample_ids
from modeling_clipscratch.data.images.trivial_augment import OPERATIONS, trivial_augment

LEVELS = range(-30, 31)


def moved(picture, *matrix):
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix)  # the nearest pixel, black outside


PILLOW = {
    "identity": lambda picture, level: picture,
    "brightness": lambda picture, level: ImageEnhance.Brightness(picture).enhance(1 + 0.99 * level / 30),
    "colour": lambda picture, level: ImageEnhance.Color(picture).enhance(1 + 0.99 * level / 30),
    "contrast": lambda picture, level: ImageEnhance.Contrast(picture).enhance(1 + 0.99 * level / 30),
    "sharpness": lambda picture, level: ImageEnhance.Sharpness(picture).enhance(1 + 0.99 * level / 30),
    "posterize": lambda picture, level: ImageOps.posterize(picture, 8 - round(6 * abs(level) / 30)),
    "solarize": lambda picture, level: ImageOps.solarize(picture, 255 - 255 * abs(level) / 30),
    "autocontrast": lambda picture, level: ImageOps.autocontrast(picture),
    "equalize": lambda picture, level: ImageOps.equalize(picture),
    "translate_x": lambda picture, level: moved(picture, 1, 0, min(32, picture.width) * level / 30, 0, 1, 0),
    "translate_y": lambda picture, level: moved(picture, 1, 0, 0, 0, 1, min(32, picture.height) * level / 30),
    "shear_x": lambda picture, level: moved(picture, 1, 0.99 * level / 30, 0, 0, 1, 0),
    "shear_y": lambda picture, level: moved(picture, 1, 0, 0, 0.99 * level / 30, 1, 0),
    "rotate": lambda picture, level: picture.rotate(135 * level / 30),
}
# Shares of pixels that may differ, and by how much: a product may lie on the other side of a whole number; at 135
# degrees the diagonal lies between two pixels.
ROUNDING = {"brightness": (0.01, 1), "autocontrast": (0.01, 1), "rotate": (0.02, 255)}


def pictures_of(height, width):
    """Noise, dark noise, a plain grey and a slope."""
    draw = torch.Generator().manual_seed(0)
    noise = torch.randint(20, 230, (2, height, width, 3), generator=draw)
    slope = 3 * torch.arange(width)[None, :, None] + torch.arange(height)[:, None, None] + torch.arange(3)
    grey = torch.full((height, width, 3), 77)
    return torch.stack([noise[0], noise[1] ** 2 // 400, grey, slope]).to(torch.uint8)


def samples_of(count, seed=0):
    return sample_ids(key_ids([f"row-{number}" for number in range(count)]), seed=seed, epoch=0)


def yes(count):
    return torch.ones(count, dtype=torch.bool)


@pytest.fixture
def chosen(monkeypatch):
    """{draw number: a value for every sample}."""
    table = {module._WHETHER: 0.0}
    monkeypatch.setattr(module, "uniform", lambda samples, draw: torch.full((len(samples),), table[draw]))
    return table


@pytest.mark.parametrize("size", [(32, 32), (30, 50), (8, 8)])
@pytest.mark.parametrize("name", PILLOW)
def test_operation_is_pillows(chosen, name, size):
    images = pictures_of(*size)
    share, most = ROUNDING.get(name, (0, 0))
    chosen[module._WHICH] = (list(PILLOW).index(name) + 0.5) / 14
    for level in LEVELS:
        chosen |= {module._LEVEL: (abs(level) + 0.5) / 31, module._SIGN: 0.25 if level < 0 else 0.75}
        made = trivial_augment(images, samples_of(4), yes(4), probability=1.0)
        turned = [PILLOW[name](Image.fromarray(image.numpy()), level) for image in images]
        far = (made.int() - torch.from_numpy(np.stack(turned)).int()).abs()
        assert made.dtype == torch.uint8
        assert (far > 0).float().mean() <= share and far.max() <= most, level


def test_a_picture_of_one_colour_has_nothing_to_stretch(chosen):
    images = torch.full((1, 4, 4, 3), 9, dtype=torch.uint8)
    for name in ("autocontrast", "equalize"):
        chosen |= {module._WHICH: (list(PILLOW).index(name) + 0.5) / 14, module._LEVEL: 0.5, module._SIGN: 0.5}
        assert torch.equal(trivial_augment(images, samples_of(1), yes(1), probability=1.0), images)


@pytest.mark.parametrize("edge", [1, 2])
def test_the_smallest_pictures_are_taken(edge):
    images = torch.randint(256, (200, edge, edge, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert trivial_augment(images, samples_of(200), yes(200), probability=1.0).shape == images.shape


def drawn(count, may_turn, monkeypatch):
    """(n, 2) operations and levels of `count` samples, in any order."""
    seen = []

    def spy(number):
        def operation(pictures, level):
            seen.extend((number, int(one)) for one in level.flatten())
            return pictures

        return operation

    spies = tuple(spy(number) for number in range(len(OPERATIONS)))
    monkeypatch.setattr(module, "OPERATIONS", spies)
    monkeypatch.setattr(module, "_shear_x", spies[OPERATIONS.index(module._shear_x)])
    images = torch.zeros(count, 1, 1, 3, dtype=torch.uint8)
    assert torch.equal(trivial_augment(images, samples_of(count), may_turn, probability=0.7), images)
    return torch.tensor(seen)


def test_every_operation_and_every_level_is_drawn_as_often(monkeypatch):
    operations, levels = drawn(28_000, yes(28_000), monkeypatch).unbind(1)
    counts = operations.bincount(minlength=14)
    # 0.7 / 14 of 28,000 are 1,400 each, one deviation 36; where none is made it is the identity's, 0.3 + 0.05.
    assert (counts[1:] - 1400).abs().max() < 150
    assert counts[0].item() == pytest.approx(9800, abs=320)  # four deviations of 80
    # 28,000 / 62 are 452 of each level and sign, one deviation 21; a level of 0 has both signs.
    counts = (levels + 30).bincount(minlength=61)
    counts[30] = counts[30] / 2
    assert (counts - 452).abs().max() < 95


def test_pictures_whose_caption_names_a_side_are_not_turned(monkeypatch):
    operations, _ = drawn(2000, torch.zeros(2000, dtype=torch.bool), monkeypatch).unbind(1)
    assert set(operations.tolist()) == set(range(14)) - {
        list(PILLOW).index(n) for n in ("shear_x", "shear_y", "rotate")
    }


def test_a_sample_is_the_same_in_any_batch_and_other_samples_are_not():
    images = torch.randint(256, (60, 9, 7, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    may_turn = torch.arange(60) % 3 > 0
    together = trivial_augment(images, samples_of(60), may_turn, probability=0.8)
    for part in (torch.tensor([5]), torch.tensor([59, 0, 7]), torch.randperm(60), torch.tensor([4, 4])):
        made = trivial_augment(images[part], samples_of(60)[part], may_turn[part], probability=0.8)
        assert torch.equal(made, together[part])
    assert not torch.equal(trivial_augment(images, samples_of(60, seed=1), may_turn, probability=0.8), together)


def test_at_probability_0_pictures_stay_and_their_number_of_changed_ones_follows_it():
    images = pictures_of(16, 16)[:1].expand(2000, -1, -1, -1)
    for probability in (0.0, 0.3, 1.0):
        made = trivial_augment(images, samples_of(2000), yes(2000), probability=probability)
        changed = (made != images).any((1, 2, 3)).float().mean()
        # The identity and levels of 0 change nothing: 1/14 and 11/14 of 1/31, and posterize's first three levels.
        assert changed.item() == pytest.approx(0.9 * probability, abs=0.045)


def test_augment_does_it_after_the_mirror_image():
    images, samples = pictures_of(12, 12), samples_of(4)
    plain = {"mean": [0.0] * 3, "std": [1 / 255] * 3}
    made = Augment(**plain, horizontal_flip=1.0, trivial_augment=1.0)(images, samples, yes(4))
    expected = trivial_augment(images.flip(2), samples, yes(4), probability=1.0)
    assert torch.equal(made.round().to(torch.uint8), expected.permute(0, 3, 1, 2))
