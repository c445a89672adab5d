"""Compare the tiled loss with the plain one, in float32 and for odd tiles, and its floor with what training reaches."""

import math

import pytest
import torch

from modeling_clipscratch.hub.losses_clipscratch import contrastive_logits, contrastive_loss
from modeling_clipscratch.training.loss.tiled_loss import global_loss, loss_floor


def pairs(count, width=16, dtype=torch.float32):
    draw = torch.Generator().manual_seed(count)
    images, texts = (torch.randn(count, width, generator=draw, dtype=dtype) for _ in range(2))
    images, texts = (torch.nn.functional.normalize(x, dim=-1).requires_grad_() for x in (images, texts))
    scale = torch.tensor(math.log(100), dtype=dtype, requires_grad=True)
    return images, texts, scale, torch.randint(0, max(count // 3, 1), (count,), generator=draw)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid", "diagonal"])
@pytest.mark.parametrize(("count", "tile"), [(1, None), (7, 3), (50, 7), (50, 50), (50, None), (300, 128)])
def test_float32_loss_and_gradients_are_the_plain_ones_at_the_highest_temperature(loss, count, tile):
    tiled = pairs(count)
    bias = torch.tensor(-10.0, requires_grad=True) if loss == "sigmoid" else None
    share, _ = global_loss(*tiled[:3], bias, loss=loss, group=tiled[3], tile=tile)
    (2 * share).backward()
    exact = pairs(count, dtype=torch.float64)
    with torch.no_grad():  # the same numbers, not the same draws
        for plain, other in zip(exact[:3], tiled[:3], strict=True):
            plain.copy_(other)
    exact_bias = torch.tensor(-10.0, dtype=torch.float64, requires_grad=True) if loss == "sigmoid" else None
    expected = contrastive_loss(contrastive_logits(*exact[:3], exact_bias), loss=loss, group=tiled[3])
    (2 * expected).backward()
    # logits of up to 100 have 6e-6 of rounding in float32
    assert share.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)
    for one, other in zip(tiled[:3], exact[:3], strict=True):
        assert (one.grad - other.grad).abs().max() <= 1e-4 * other.grad.abs().max() + 1e-6
    if loss == "sigmoid":
        assert bias.grad.item() == pytest.approx(exact_bias.grad.item(), rel=1e-4)


def test_half_precision_embeddings_are_compared_in_float32():
    images, texts, scale, group = pairs(20)
    half = images.detach().bfloat16(), texts.detach().bfloat16()
    share, _ = global_loss(*half, scale, loss="softmax", group=group)
    full, _ = global_loss(*(x.float() for x in half), scale, loss="softmax", group=group)
    assert share.dtype == torch.float32 and share == full
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert global_loss(images, texts, scale, loss="softmax", group=group)[0].dtype == torch.float32


def test_floor_is_the_mean_logarithm_of_the_positives():
    groups = torch.tensor([2**40, 3, 2**40, -7, 2**40, 3])  # three rows with three positives, two with two, one alone
    assert loss_floor(groups).item() == pytest.approx((3 * math.log(3) + 2 * math.log(2)) / 6)
    assert loss_floor(torch.arange(5)).item() == 0
    assert loss_floor(torch.zeros(4, dtype=torch.long)).item() == pytest.approx(math.log(4))
    assert loss_floor(groups.to("meta")).shape == ()  # a meta tensor has no value to wait for


def test_floor_is_reached_by_one_embedding_a_group_at_a_low_temperature():
    groups = torch.tensor([0, 1, 0, 2, 0, 1])
    embeds = torch.eye(3)[groups]
    low, high = (global_loss(embeds, embeds, torch.tensor(s), loss="softmax", group=groups)[0] for s in (4.605, 0.0))
    assert low.item() == pytest.approx(loss_floor(groups).item(), abs=1e-4)  # roundings of logits of 100
    assert high > loss_floor(groups) + 0.1
