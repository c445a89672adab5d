"""Embeddings of one process go in; the streamed loss is held to the plain one, in float32 and for odd tiles."""

import math

import pytest
import torch

from modeling_clipscratch.hub.losses_clipscratch import contrastive_logits, contrastive_loss
from modeling_clipscratch.training.loss.tiled_loss import GlobalLoss


def pairs(count, width=16, dtype=torch.float32):
    draw = torch.Generator().manual_seed(count)
    images, texts = (torch.randn(count, width, generator=draw, dtype=dtype) for _ in range(2))
    images, texts = (torch.nn.functional.normalize(x, dim=-1).requires_grad_() for x in (images, texts))
    scale = torch.tensor(math.log(100), dtype=dtype, requires_grad=True)
    return images, texts, scale, torch.randint(0, max(count // 3, 1), (count,), generator=draw)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid", "diagonal"])
@pytest.mark.parametrize(("count", "tile"), [(1, None), (7, 3), (50, 7), (50, 50), (50, None), (300, 128)])
def test_float32_loss_and_gradients_are_the_plain_ones_at_the_highest_temperature(loss, count, tile):
    found = pairs(count)
    bias = torch.tensor(-10.0, requires_grad=True) if loss == "sigmoid" else None
    share, _ = GlobalLoss(loss=loss, tile=tile)(*found[:3], bias, group=found[3])
    (2 * share).backward()
    exact = pairs(count, dtype=torch.float64)
    with torch.no_grad():  # the same numbers, not the same draws
        for mine, theirs in zip(exact[:3], found[:3], strict=True):
            mine.copy_(theirs)
    exact_bias = torch.tensor(-10.0, dtype=torch.float64, requires_grad=True) if loss == "sigmoid" else None
    expected = contrastive_loss(contrastive_logits(*exact[:3], exact_bias), loss=loss, group=found[3])
    (2 * expected).backward()
    # logits of up to 100 have 6e-6 of rounding in float32
    assert share.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)
    for mine, theirs in zip(found[:3], exact[:3], strict=True):
        assert (mine.grad - theirs.grad).abs().max() <= 1e-4 * theirs.grad.abs().max() + 1e-6
    if loss == "sigmoid":
        assert bias.grad.item() == pytest.approx(exact_bias.grad.item(), rel=1e-4)


def test_half_precision_embeddings_are_compared_in_float32():
    images, texts, scale, group = pairs(20)
    half = images.detach().bfloat16(), texts.detach().bfloat16()
    share, _ = GlobalLoss(loss="softmax")(*half, scale, group=group)
    full, _ = GlobalLoss(loss="softmax")(*(x.float() for x in half), scale, group=group)
    assert share.dtype == torch.float32 and share == full
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert GlobalLoss(loss="softmax")(images, texts, scale, group=group)[0].dtype == torch.float32


def test_without_gradients_no_second_pass_is_made(monkeypatch):
    images, texts, scale, group = pairs(20)
    calls = []
    own = torch.Tensor.addmm_
    monkeypatch.setattr(torch.Tensor, "addmm_", lambda self, *a: (calls.append(1), own(self, *a))[1])
    with torch.no_grad():
        GlobalLoss(loss="softmax", tile=8)(images, texts, scale, group=group)
    assert not calls
    GlobalLoss(loss="softmax", tile=8)(images, texts, scale, group=group)
    assert len(calls) == 2 * 9  # two products a tile


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_gradients_are_the_slopes_of_the_loss_in_any_direction(loss):
    images, texts, scale, group = pairs(5, width=3, dtype=torch.float64)
    with torch.no_grad():
        scale.fill_(1.0)
    bias = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    given = (images, texts, scale, bias) if loss == "sigmoid" else (images, texts, scale)

    def value(*given):
        return GlobalLoss(loss=loss, tile=2)(*given, group=group)[0]

    gradients = torch.autograd.grad(value(*given), given)
    step = 1e-6
    for draw in range(5):
        ways = [torch.randn(t.shape, generator=torch.Generator().manual_seed(draw), dtype=t.dtype) for t in given]
        with torch.no_grad():
            ahead, behind = (
                value(*(t + sign * step * way for t, way in zip(given, ways, strict=True))) for sign in (1, -1)
            )
        slope = sum((g * way).sum() for g, way in zip(gradients, ways, strict=True))
        assert slope.item() == pytest.approx((ahead - behind).item() / (2 * step), rel=1e-7)
