"""Draws and small pictures go in; what is pasted in, what shines through, and how much is left, are checked by hand."""

import pytest
import torch

from modeling_clipscratch.data.images.augment import Augment, Views
from modeling_clipscratch.data.images.mix import Mix
from modeling_clipscratch.data.images.randomness import key_ids, sample_ids


def samples_of(count):
    return sample_ids(key_ids([f"row-{number}" for number in range(count)]), seed=0, epoch=0)


def views_of(count, edge=8, **probabilities):
    """Pictures of one grey each, 10 times their place."""
    images = (torch.arange(count) * 10).to(torch.uint8)[:, None, None, None].expand(count, edge, edge, 3)
    augment = Augment(mean=[0.0] * 3, std=[1 / 255] * 3, mix=Mix(**probabilities))
    return Views(
        images=images, samples=samples_of(count), may_flip=torch.ones(count, dtype=torch.bool), augment=augment
    )


def test_pasted_part_is_the_next_pictures_and_the_weight_is_what_is_left():
    views = views_of(20, cutmix=1.0)
    made, weight = views[:][:, 0], views.mixture.weight
    for place in range(20):
        own, other = 10.0 * place, 10.0 * ((place + 1) % 20)
        assert set(made[place].flatten().tolist()) <= {own, other}
        assert (made[place] == own).float().mean() == pytest.approx(weight[place].item())
        rows = (made[place] == other).any(1).nonzero().flatten()
        columns = (made[place] == other).any(0).nonzero().flatten()
        assert (made[place] == other).sum() == len(rows) * len(columns)  # a rectangle
        assert len(rows) == 0 or (rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1) == (len(rows), len(columns))
    assert weight.min() > 0 and weight.min() < 0.4 and weight.max() > 0.8


def test_what_shines_through_is_the_next_picture_by_its_weight():
    views = views_of(20, mixup=1.0)
    own, other = torch.arange(20) * 10.0, (torch.arange(20) + 1) % 20 * 10.0
    weight = views.mixture.weight
    expected = weight * own + (1 - weight) * other
    assert torch.allclose(views[:][:, 0], expected[:, None, None].expand(20, 8, 8), atol=1e-4)
    assert weight.min() >= 1 / 64 and weight.std() > 0.2


def test_shares_of_mixed_pictures_are_the_probabilities():
    mixture = Mix(cutmix=0.5, mixup=0.2).draw(samples_of(20_000), 32, 32)
    plain = mixture.weight == 1
    assert (~plain & ~mixture.cut).float().mean() == pytest.approx(0.2, abs=0.01)  # three standard errors
    assert mixture.cut.float().mean() == pytest.approx(0.5, abs=0.011)
    assert mixture.weight[mixture.cut].mean() == pytest.approx(
        0.53, abs=0.02
    )  # even, and boxes are cut to whole pixels


def test_a_part_of_the_batch_is_that_part_of_the_whole():
    views = views_of(10, cutmix=0.5, mixup=0.5)
    assert torch.equal(torch.cat([views[0:3], views[3:7], views[7:10]]), views[:])


@pytest.mark.parametrize("said", [{"cutmix": -0.1}, {"cutmix": 0.7, "mixup": 0.5}])
def test_what_is_no_probability_is_refused(said):
    with pytest.raises(ValueError, match="are not probabilities whose sum is at most 1"):
        Mix(**said)
