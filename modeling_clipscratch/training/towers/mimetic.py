"""Initialise a ViT with weights that resemble those of trained ones."""

import torch

from ...hub.towers_clipscratch import last_blocks
from ...utils.errors import ClipScratchError

_IDENTITY, _NEGATIVE = 0.7, 0.4  # weights of the identity in queries x keys, of its negative in values x output
# Correlation of pixels: between colours, and its decay a pixel, measured on 3,000 training images of CIFAR-10.
_COLOURS, _DECAY = 0.85, 0.1


@torch.no_grad()
def mimic_trained_weights(tower) -> None:
    """Give a `ViTModel` what trained ones have in common, so that it need not learn it from little data.

    Positions are sines and cosines of a patch's row and column, so near patches are alike. Queries times keys are near
    the identity, so a patch attends to patches that resemble it, near ones first. Values times output are near the
    negative of the identity, so a block adds the difference from those patches. The first filters whiten pixels, so
    edges are as strong as areas of one colour. `docs/log.md` has what this is worth on CIFAR-10.

    Source: Trockman & Kolter 2023, arXiv 2305.09828, with its 0.7 and 0.4; sines as in arXiv 2104.02057. The factors
        of values times output are a random rotation and its inverse, not a singular value decomposition, which is slow.
        Whitened first filters: Coates et al. 2011, AISTATS, there from data.
    """
    config = tower.config
    if config.model_type != "vit" or config.hidden_size % 4:
        raise ClipScratchError(
            "vision_init=mimetic is for a ViT (vision_tower=vit) whose vision_hidden_size is a multiple of 4, not for "
            f"a {config.model_type}; leave vision_init out."
        )
    width, positions = config.hidden_size, tower.embeddings.position_embeddings
    edge = config.image_size // config.patch_size
    positions[0, -edge * edge :] = _sines(edge, width)
    patches = tower.embeddings.patch_embeddings.projection.weight
    patches.copy_(_whitening_filters(*patches.shape[:3]))

    def noise():
        return torch.randn(width, width) * width**-0.5

    for block in last_blocks(tower, config.num_hidden_layers):
        query, key, value, out = (getattr(block.attention, f"{name}_proj").weight for name in "qkvo")
        for rows in torch.arange(width).chunk(config.num_attention_heads):
            product = _IDENTITY * (noise() + torch.eye(width))
            left, strengths, right = torch.svd_lowrank(product, q=len(rows), niter=4)
            query[rows] = (left * strengths.sqrt()).t()
            key[rows] = (right * strengths.sqrt()).t()
        rotation = torch.linalg.qr(noise())[0]
        value.copy_(_NEGATIVE**0.5 * rotation)
        out.copy_(_NEGATIVE**0.5 * (noise() - torch.eye(width)) @ rotation.t())


def _whitening_filters(width: int, channels: int, edge: int) -> torch.Tensor:
    """Draw filters (width, channels, edge, edge) to which patches of images, in -1 to 1, look like noise."""
    grid = torch.cartesian_prod(torch.arange(edge), torch.arange(edge)).double()
    colours = torch.full((channels, channels), _COLOURS).fill_diagonal_(1).double()
    correlation = torch.kron(colours, torch.exp(-_DECAY * torch.cdist(grid, grid)))
    strengths, directions = torch.linalg.eigh(0.25 * correlation)
    whiten = directions / (strengths + 1e-3).sqrt()
    noise = torch.randn(width, len(strengths)) * (2 * len(strengths)) ** -0.5
    return (noise @ whiten.t().float()).view(width, channels, edge, edge)


def _sines(edge: int, width: int) -> torch.Tensor:
    """Encode the row and column of edge x edge patches, half of the width each: (edge * edge, width), row by row."""
    rates = 10000 ** -(torch.arange(width // 4) / (width // 4))
    angles = torch.arange(edge)[:, None] * rates
    waves = torch.cat([angles.sin(), angles.cos()], 1)
    return torch.cat([waves.repeat_interleave(edge, 0), waves.repeat(edge, 1)], 1)
