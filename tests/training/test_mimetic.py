"""Check what a ViT attends to after `mimic_trained_weights`, and which towers are refused."""

import pytest
import torch
from transformers import ConvNextConfig, ConvNextModel, ViTConfig, ViTModel

from modeling_clipscratch.training.towers.mimetic import mimic_trained_weights

WIDTH, HEADS, EDGE = 64, 2, 6


def make_tower(width=WIDTH):
    torch.manual_seed(0)
    sizes = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": HEADS, "intermediate_size": 128}
    config = ViTConfig(**sizes, image_size=4 * EDGE, patch_size=4, attn_implementation="eager")
    return ViTModel(config, add_pooling_layer=False)


def share_of_neighbours(tower):
    """How much of a first block's attention stays within one patch of where it comes from; patches only."""
    pixels = torch.randn(8, 3, 4 * EDGE, 4 * EDGE, generator=torch.Generator().manual_seed(1)) * 0.5
    with torch.no_grad():
        attention = tower(pixels, output_attentions=True).attentions[0][..., 1:, 1:].mean((0, 1))
    place = torch.stack(torch.meshgrid(torch.arange(EDGE), torch.arange(EDGE), indexing="ij"), -1).flatten(0, 1)
    near = (place[:, None] - place[None]).abs().amax(-1) <= 1
    return float((attention * near).sum(1).div(attention.sum(1)).mean())


def test_first_block_attends_to_near_patches():
    tower = make_tower()
    before = share_of_neighbours(tower)
    mimic_trained_weights(tower)
    assert before < 0.3 and share_of_neighbours(tower) > 1.5 * before


def test_values_times_output_take_the_mean_away():
    tower = make_tower()
    mimic_trained_weights(tower)
    attention = tower.layers[0].attention
    value, out = attention.v_proj.weight, attention.o_proj.weight
    both = out @ value
    rest = both - torch.eye(WIDTH) * both.diagonal().mean()
    assert both.diagonal().mean().item() == pytest.approx(-0.4, abs=0.05)
    assert rest.std().item() == pytest.approx(0.4 * WIDTH**-0.5, rel=0.1)


def test_other_towers_are_refused():
    with pytest.raises(ValueError, match="is for a ViT .* not for a convnext"):
        mimic_trained_weights(ConvNextModel(ConvNextConfig(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1])))
    with pytest.raises(ValueError, match="a multiple of 4, not for a vit"):
        mimic_trained_weights(make_tower(66))
