"""A ViT from scratch goes in; the same comes out with first weights that look near and see what differs there."""

import torch

from ...hub.errors_clipscratch import ClipScratchError
from ...hub.towers_clipscratch import last_blocks

_ALIKE, _UNLIKE = 0.7, 0.4  # of the identity, and of the noise, in queries x keys and in values x output
# Correlation of pictures: between colours, and its decay a pixel. Of 3,000 of CIFAR-10's training pictures.
_COLOURS, _DECAY = 0.85, 0.1


@torch.no_grad()
def mimic_trained_weights(tower) -> None:
    """Gives a ViT the habits that trained ones have, so that it need not learn them from little data.

    Positions are sines and cosines of a patch's row and column, so patches that lie near are alike; queries times keys
    are near the identity, so a patch looks at what is like it, first of all at what is near; values times output are
    near the negative of the identity, so what it adds is how it differs from there. Patches are seen as if pixels of
    pictures were not alike, so that edges are as loud as shades. What it is worth on CIFAR-10: `docs/log.md`.

    Args:
        tower: `ViTModel`, W wide; changed in place.
    Raises: ClipScratchError for towers of another build, and for W that is not a multiple of 4.
    Source: Trockman & Kolter 2023, arXiv 2305.09828, its 0.7 and 0.4; sines as in arXiv 2104.02057. Factors of values
        times output are a random rotation and its inverse, not a singular value decomposition, which is slow. Whitened
        first filters: Coates et al. 2011, AISTATS, there from data.

    >>> from transformers import ViTConfig, ViTModel
    >>> sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    >>> tower = ViTModel(ViTConfig(**sizes, image_size=16, patch_size=4), add_pooling_layer=False)
    >>> mimic_trained_weights(tower)
    >>> positions = tower.embeddings.position_embeddings[0, 1:]  # the second patch is nearer than the fourth
    >>> bool(positions[0] @ positions[1] > positions[0] @ positions[3])
    True
    """
    config = tower.config
    positions = getattr(getattr(tower, "embeddings", None), "position_embeddings", None)
    if positions is None or positions.shape[-1] % 4:
        width = "" if positions is None else f" {positions.shape[-1]} wide"
        raise ClipScratchError(
            "vision_init=mimetic is for a ViT (vision_tower=vit) whose vision_hidden_size is a multiple of 4, not for "
            f"a {config.model_type}{width}; leave vision_init out."
        )
    width = positions.shape[-1]
    edge = config.image_size // config.patch_size
    positions[0, -edge * edge :] = sines(edge, width)
    patches = tower.embeddings.patch_embeddings.projection.weight
    patches.copy_(whitening_filters(*patches.shape[:3]))

    def noise():
        return torch.randn(width, width) * width**-0.5

    for block in last_blocks(tower, config.num_hidden_layers):
        query, key, value, out = (getattr(block.attention, f"{name}_proj").weight for name in "qkvo")
        for rows in torch.arange(width).chunk(config.num_attention_heads):
            alike = _ALIKE * (noise() + torch.eye(width))
            left, strengths, right = torch.svd_lowrank(alike, q=len(rows), niter=4)
            query[rows] = (left * strengths.sqrt()).t()
            key[rows] = (right * strengths.sqrt()).t()
        turn = torch.linalg.qr(noise())[0]
        value.copy_(_UNLIKE**0.5 * turn)
        out.copy_(_UNLIKE**0.5 * (noise() - torch.eye(width)) @ turn.t())


def whitening_filters(width: int, channels: int, edge: int) -> torch.Tensor:
    """Random filters that see patches of pictures, values of -1 to 1, as noise: (width, channels, edge, edge).

    Their answers have a mean square of at most a half, a quarter on CIFAR-10: contrasts of a few percent stay low.

    >>> filters = whitening_filters(64, 3, 4)
    >>> grey, edges = torch.ones(3, 4, 4), torch.ones(3, 4, 4)
    >>> edges[:, :, 2:] = -1
    >>> along, across = ((filters * picture).sum((1, 2, 3)).square().mean() for picture in (grey, edges))
    >>> bool(across > 2 * along)  # few pictures have such an edge, so it is made loud
    True
    """
    grid = torch.cartesian_prod(torch.arange(edge), torch.arange(edge)).double()
    colours = torch.full((channels, channels), _COLOURS).fill_diagonal_(1).double()
    alike = torch.kron(colours, torch.exp(-_DECAY * torch.cdist(grid, grid)))
    strengths, directions = torch.linalg.eigh(0.25 * alike)
    whiten = directions / (strengths + 1e-3).sqrt()
    noise = torch.randn(width, len(strengths)) * (2 * len(strengths)) ** -0.5
    return (noise @ whiten.t().float()).view(width, channels, edge, edge)


def sines(edge: int, width: int) -> torch.Tensor:
    """Positions of edge x edge patches, row by row: (edge * edge, width), a half for the row, a half for the column.

    >>> sines(2, 4)[1]  # first row, second column: sine and cosine of 0, then of 1
    tensor([0.0000, 1.0000, 0.8415, 0.5403])
    """
    rates = 10000 ** -(torch.arange(width // 4) / (width // 4))
    angles = torch.arange(edge)[:, None] * rates
    waves = torch.cat([angles.sin(), angles.cos()], 1)
    return torch.cat([waves.repeat_interleave(edge, 0), waves.repeat(edge, 1)], 1)
