"""Check what chunks return, keep and draw again."""

import pytest
import torch

from modeling_clipscratch.hub import chunks_clipscratch
from modeling_clipscratch.hub.chunks_clipscratch import in_chunks


@pytest.mark.parametrize("chunk", [1, 3, 10, 11])
def test_features_and_gradients_are_those_of_the_whole(make_model, chunk):
    model = make_model(freeze_text=False).double()
    draw = torch.Generator().manual_seed(0)
    batch = {
        "input_ids": torch.randint(1, 12, (10, 5), generator=draw),
        "attention_mask": torch.ones(10, 5, dtype=torch.long),
        "pixel_values": torch.randn(10, 3, 8, 8, generator=draw, dtype=torch.float64),
    }
    whole = model(**batch, return_loss=True)
    whole.loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    parts = model(**batch, return_loss=True, encode_chunk_size=chunk)
    parts.loss.backward()
    assert torch.allclose(parts.image_embeds, whole.image_embeds, atol=1e-14)
    assert torch.allclose(parts.logits_per_text, whole.logits_per_text, atol=1e-13)
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, expected[name], atol=1e-13), name


def test_draws_are_replayed_where_the_model_is(make_model, monkeypatch):
    seen, model, there = [], make_model(), torch.device("meta")
    monkeypatch.setattr(type(model), "device", there)

    def look(function, *args, **options):
        seen.append([arg.device for arg in args if isinstance(arg, torch.Tensor)])
        return function(*args)

    monkeypatch.setattr(chunks_clipscratch, "checkpoint", look)  # it keeps generators of its tensors' devices only
    model(pixel_values=torch.zeros(3, 3, 8, 8), encode_chunk_size=2)
    assert seen == [[there], [there]]


def test_draws_are_replayed_and_leave_no_trace():
    seen = []

    def encode(x):
        factor = torch.rand(len(x), 1)
        seen.append(factor.tolist())
        return (x * factor) ** 2

    x = torch.ones(5, 2, requires_grad=True)
    torch.manual_seed(3)
    features = in_chunks(encode, {"x": x}, 2)
    after = torch.rand(1).item()
    features.sum().backward()
    assert len(seen) == 6 and seen[3:] == [seen[2], seen[1], seen[0]]  # the last chunk comes first
    torch.manual_seed(3)
    for size in (2, 2, 1):
        torch.rand(size, 1)
    assert after == torch.rand(1).item()
    factors = torch.tensor(seen[0] + seen[1] + seen[2])
    assert torch.allclose(x.grad, (2 * factors**2).expand(5, 2))


def test_nothing_of_a_chunk_is_kept_for_the_backward_pass():
    kept = []
    x = torch.ones(8, 4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        in_chunks(lambda x: (x**2).exp().sin(), {"x": x}, 2)
        assert sum(kept) == 0
        (x**2).exp().sin()
    assert sum(kept) == 3 * x.numel()  # as the whole batch keeps


def test_without_gradients_each_chunk_is_encoded_once():
    calls = []

    def encode(x, y):
        assert y is None
        calls.append(len(x))
        return x

    with torch.no_grad():
        assert in_chunks(encode, {"x": torch.arange(5), "y": None}, 2).tolist() == [0, 1, 2, 3, 4]
    assert calls == [2, 2, 1]
