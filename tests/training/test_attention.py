"""Compare `eager_bf16` with eager attention, and check which kernel is chosen."""

import pytest
import torch
from transformers import DistilBertConfig, DistilBertModel, MPNetConfig, MPNetModel, ViTConfig, ViTModel
from transformers.models.vit.modeling_vit import eager_attention_forward

from modeling_clipscratch.training.optimization.device import attend, choose_attention, set_attention


@pytest.fixture
def heads():
    torch.manual_seed(0)
    return [torch.randn(2, 4, 9, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]


def module(training=False):
    return torch.nn.Identity().train(training)


def gradients(output, inputs):
    weighted = output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return torch.autograd.grad(weighted.sum(), inputs)


@pytest.mark.parametrize("scaling", [None, 0.3])
@pytest.mark.parametrize("masked", [False, True])
def test_kernel_equals_eager_attention(heads, scaling, masked):
    mask = torch.zeros(2, 1, 9, 9).masked_fill(torch.arange(9) > 5, torch.finfo(torch.float32).min) if masked else None
    ours, weights = attend(module(), *heads, mask, scaling=scaling)
    theirs, their_weights = eager_attention_forward(module(), *heads, mask, scaling=scaling)
    assert ours.shape == (2, 9, 4, 8)
    assert ours.is_contiguous()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)  # their softmax is float32
    torch.testing.assert_close(weights, their_weights, rtol=1e-6, atol=1e-6)
    for result, expected in zip(gradients(ours, heads), gradients(theirs, heads), strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)


def test_in_bfloat16_it_is_as_exact_as_eager_attention():
    torch.manual_seed(0)
    rounded = [torch.randn(2, 6, 65, 32).bfloat16().requires_grad_() for _ in range(3)]
    exact_inputs = [each.detach().double().requires_grad_() for each in rounded]
    exact = attend(module(), *exact_inputs)[0]
    exact = [exact, *gradients(exact, exact_inputs)]

    def errors(kernel):
        result = kernel(module(), *rounded, None)[0]
        result = [result, *gradients(result, rounded)]
        return [float((a.double() - b).detach().norm() / b.detach().norm()) for a, b in zip(result, exact, strict=True)]

    for ours, theirs in zip(errors(attend), errors(eager_attention_forward), strict=True):
        assert 0 < ours < 1.1 * theirs


def test_dropout_is_for_training_only(heads):
    torch.manual_seed(0)
    _, dropped = attend(module(training=True), *heads, dropout=0.5)
    _, whole = attend(module(), *heads, dropout=0.5)
    assert 0.3 < float((dropped == 0).double().mean()) < 0.7
    assert not (whole == 0).any()
    torch.testing.assert_close(dropped[dropped != 0], 2 * whole[dropped != 0])


def test_auto_is_eager_bf16_for_bf16_on_cpus_only():
    choices = {(p, cpu): choose_attention("auto", precision=p, use_cpu=cpu) for p in ("fp32", "bf16") for cpu in (0, 1)}
    assert choices == {("fp32", 0): "sdpa", ("fp32", 1): "sdpa", ("bf16", 0): "sdpa", ("bf16", 1): "eager_bf16"}
    assert choose_attention("eager", precision="fp32", use_cpu=False) == "eager"
    assert choose_attention("sdpa", precision="bf16", use_cpu=True) == "sdpa"


def tiny(family, config, **sizes):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, **sizes}
    return family(config(**sizes)).eval()


def test_towers_give_the_same_output_with_it(tmp_path):
    vision = tiny(ViTModel, ViTConfig, image_size=8, patch_size=4)
    text = DistilBertModel(DistilBertConfig(vocab_size=20, dim=16, n_layers=2, n_heads=2, hidden_dim=32)).eval()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    ids = torch.arange(10).view(2, 5)
    for tower, inputs, seen in (
        (vision, {"pixel_values": torch.randn(2, 3, 8, 8)}, slice(None)),
        (text, {"input_ids": ids, "attention_mask": mask}, mask.bool()),
    ):
        set_attention(tower, "eager")
        expected = tower(**inputs).last_hidden_state
        set_attention(tower, "eager_bf16")
        assert tower.config._attn_implementation == "eager_bf16"
        torch.testing.assert_close(tower(**inputs).last_hidden_state[seen], expected[seen], rtol=1e-5, atol=1e-5)
        tower.save_pretrained(tmp_path / "tower")
        assert "eager_bf16" not in (tmp_path / "tower" / "config.json").read_text()


def test_tower_with_attention_of_its_own_keeps_eager():
    tower = tiny(MPNetModel, MPNetConfig, vocab_size=20)
    set_attention(tower, "eager_bf16")
    assert tower.config._attn_implementation == "eager"
