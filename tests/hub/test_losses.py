"""Compare each loss with a loop of its own and with values worked out by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from modeling_clipscratch.hub.losses_clipscratch import (
    contrastive_logits,
    contrastive_loss,
    full_precision,
    sigmoid_loss,
    softmax_loss,
)

# float64 sums of some 30 terms, in another order.
EXACT = {"abs": 1e-12, "rel": 1e-12}
LOSSES = ("softmax", "sigmoid", "diagonal")


def random_logits(rows=5, columns=5, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


def softmax_loop(logits, targets):
    """Each direction: a row's cross-entropy against its normalised weights, one row after another."""

    def one_way(logits, targets):
        total = 0.0
        for row, weights in zip(logits, targets, strict=True):
            share = weights / weights.sum()
            log_sum = math.log(sum(math.exp(x) for x in row))
            total += sum(share[j] * (log_sum - row[j]) for j in range(len(row)))
        return total / len(logits)

    return (one_way(logits, targets) + one_way(logits.T, targets.T)) / 2


def sigmoid_loop(logits, targets):
    total = 0.0
    for row, weights in zip(logits, targets, strict=True):
        for x, target in zip(row, weights, strict=True):
            right, wrong = 1 / (1 + math.exp(-x)), 1 / (1 + math.exp(x))
            total -= target * math.log(right) + (1 - target) * math.log(wrong)
    return total / len(logits)


GROUP = torch.tensor([4, 1, 4, 4, 1])
POSITIVES = [[1, 0, 1, 1, 0], [0, 1, 0, 0, 1], [1, 0, 1, 1, 0], [1, 0, 1, 1, 0], [0, 1, 0, 0, 1]]


def test_losses_have_the_values_worked_out_by_hand():
    # Two images of one class, logits (ln 3, 0) and (0, 0), weights 1/2 each. Images to texts: row 0 has probabilities
    # 3/4, 1/4; row 1 has 1/2, 1/2. Texts to images: the same by symmetry.
    logits = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]], dtype=torch.float64)
    by_hand = (-(math.log(3 / 4) + math.log(1 / 4)) / 2 + math.log(2)) / 2
    assert softmax_loss(logits, torch.ones(2, 2, dtype=torch.float64)).item() == pytest.approx(by_hand, **EXACT)
    # The positive pair has probability 3/4, the negative pair 1 - 1/4.
    logits = torch.tensor([[math.log(3), -math.log(3)]], dtype=torch.float64)
    by_hand = -2 * math.log(3 / 4)
    assert sigmoid_loss(logits, torch.tensor([[1.0, 0.0]])).item() == pytest.approx(by_hand, **EXACT)


@pytest.mark.parametrize(("function", "loop"), [(softmax_loss, softmax_loop), (sigmoid_loss, sigmoid_loop)])
def test_loss_of_targets_equals_the_loop(function, loop):
    weights = torch.rand(4, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.01
    cases = [(random_logits(), torch.tensor(POSITIVES, dtype=torch.float64)), (random_logits(4, 6), weights / 2)]
    for logits, targets in cases:
        assert function(logits, targets).item() == pytest.approx(loop(logits.numpy(), targets.numpy()), **EXACT)


def test_diagonal_loss_is_cross_entropy_both_ways_and_ignores_groups():
    logits, own = random_logits(), torch.arange(5)
    expected = (nn.functional.cross_entropy(logits, own) + nn.functional.cross_entropy(logits.t(), own)) / 2
    for options in ({"loss": "diagonal"}, {"loss": "diagonal", "group": GROUP}, {"loss": "softmax"}):
        assert contrastive_loss(logits, **options).item() == pytest.approx(expected.item(), **EXACT)


@pytest.mark.parametrize("loss", LOSSES)
def test_named_loss_takes_groups_and_targets_replace_them(loss):
    logits, loop = random_logits(), sigmoid_loop if loss == "sigmoid" else softmax_loop
    if loss != "diagonal":
        grouped = contrastive_loss(logits, loss=loss, group=GROUP).item()
        assert grouped == pytest.approx(loop(logits.numpy(), np.array(POSITIVES, dtype=float)), **EXACT)
        assert abs(grouped - contrastive_loss(logits, loss=loss).item()) > 0.1  # the groups made a difference
    targets = torch.rand(5, 5, generator=torch.Generator().manual_seed(5)).double()
    weighted = contrastive_loss(logits, loss=loss, group=GROUP, targets=targets).item()
    assert weighted == pytest.approx(loop(logits.numpy(), targets.numpy()), **EXACT)


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_is_symmetric_and_its_gradient_is_the_difference_quotient(loss):
    logits = random_logits().requires_grad_()
    there, back = (contrastive_loss(part, loss=loss, group=GROUP) for part in (logits, logits.t()))
    assert there.item() == pytest.approx(back.item(), **EXACT)
    assert torch.autograd.gradcheck(lambda x: contrastive_loss(x, loss=loss, group=GROUP), logits)
    there.backward()
    assert (logits.grad != 0).all()


def test_unequal_numbers_need_targets():
    with pytest.raises(ValueError, match=r"^4 images and 6 texts: the loss pairs row by row; give as many of each"):
        contrastive_loss(random_logits(4, 6), loss="softmax")


def test_logits_are_float32_under_autocast_and_float64_stays():
    embeds = nn.functional.normalize(torch.randn(6, 32, generator=torch.Generator().manual_seed(0)), dim=-1)
    plain = contrastive_logits(embeds, embeds, torch.tensor(4.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (embeds @ embeds.t()).dtype == torch.bfloat16  # autocast is on
        inside = contrastive_logits(embeds, embeds, torch.tensor(4.0))
        assert softmax_loss(inside, torch.eye(6)).dtype == torch.float32
    assert inside.dtype == torch.float32 and torch.equal(inside, plain)
    assert contrastive_logits(embeds.double(), embeds.double(), torch.tensor(4.0)).dtype == torch.float64
    dtypes = [full_precision(torch.ones(1, dtype=dtype)).dtype for dtype in (torch.half, torch.bfloat16, torch.double)]
    assert dtypes == [torch.float32, torch.float32, torch.float64]
