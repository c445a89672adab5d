"""A vision tower goes in; while it trains, random patches and blocks of each picture are left out of it."""

import torch

from ..hub.towers_clipscratch import is_fixed, last_blocks


def add_drops(model, *, patches: float, blocks: float) -> None:
    """Hooks that work in training only and are no part of what is saved.

    Args:
        model: on any device; its vision tower has a grid of patches.
        patches: share of a picture's patches that are left out, so that a step has less to compute.
        blocks: probability that a picture passes the last block unchanged; less for those before, none for the first.
    Raises: ValueError for shares outside [0, 1), a frozen tower, or one that has no grid of patches.
    Source: patches Li et al. 2022, arXiv 2212.00794; blocks Huang et al. 2016, arXiv 1603.09382.
    """
    for name, share in (("patch_dropout", patches), ("drop_path", blocks)):
        if not 0 <= share < 1:
            raise ValueError(f"{name}={share} is not a share from 0 to below 1; choose 0.5 or less.")
        if share and is_fixed(model.vision_model):
            raise ValueError(f"{name}={share} drops parts of a tower in training, but the vision tower is frozen.")
    tower = model.vision_model
    if patches:
        grid = _grid(tower.config)
        tower.embeddings.register_forward_hook(lambda module, _, out: _drop_patches(out, grid, patches, module))
    if blocks:
        count = tower.config.num_hidden_layers
        for place, block in enumerate(last_blocks(tower, count)):
            rate = blocks * place / max(count - 1, 1)
            block.register_forward_hook(lambda module, given, out, rate=rate: _drop_block(given[0], out, rate, module))


def _grid(config):
    """Number of patches of a picture."""
    if not (hasattr(config, "image_size") and hasattr(config, "patch_size")):
        raise ValueError(
            f"patch_dropout needs a tower that cuts pictures into patches; a {config.model_type} does not."
        )
    return (config.image_size // config.patch_size) ** 2


def _drop_patches(tokens, grid, share, module):
    """(B, S + grid, W) -> (B, S + kept, W); the S tokens in front (class, registers) stay."""
    if not module.training:
        return tokens
    front = tokens.shape[1] - grid
    kept = max(round(grid * (1 - share)), 1)
    chosen = torch.rand(len(tokens), grid, device=tokens.device).argsort(1)[:, :kept] + front
    patches = tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[2]))
    return torch.cat([tokens[:, :front], patches], 1)


def _drop_block(before, out, rate, module):
    """What a block adds is left out for some pictures, and is as much more for the others."""
    if not module.training or rate == 0:
        return out
    after = out[0] if isinstance(out, tuple) else out
    kept = (torch.rand(len(after), 1, 1, device=after.device) >= rate).to(after.dtype) / (1 - rate)
    mixed = before + (after - before) * kept
    return (mixed, *out[1:]) if isinstance(out, tuple) else mixed
