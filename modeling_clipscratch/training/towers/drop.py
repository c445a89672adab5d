"""Leave random patches of each image out of a vision tower while it trains."""

import math

import torch

from ...utils.errors import ClipScratchError

# Types whose embeddings are a grid of patches behind tokens of other kinds, and whose blocks need not see all of it.
_TYPES = ("vit", "deit", "dinov2", "dinov2_with_registers", "ijepa", "clip_vision_model", "siglip_vision_model")


def add_patch_dropout(model, share: float, image_size: tuple[int, int]) -> None:
    """Add a hook to a vision tower that leaves a share of patches out in training only, and is not saved.

    Source: Li et al. 2022, arXiv 2212.00794.
    """
    kind = model.vision_model.config.model_type
    if not 0 <= share < 1:
        raise ClipScratchError(f"patch_dropout={share} is not a share from 0 to below 1; choose 0.5 or less.")
    if share and model.config.freeze_vision:  # also with adapters: the tower itself is in evaluation mode
        raise ClipScratchError(
            f"patch_dropout={share} drops parts of a tower in training, but the vision tower is frozen; leave it out."
        )
    if share and kind not in _TYPES:
        raise ClipScratchError(
            f"patch_dropout: a {kind} tower cannot leave patches out; leave patch_dropout out, or choose one of "
            f"{', '.join(_TYPES)}."
        )
    if "_patch_hook" in vars(model):  # of another Trainer
        model._patch_hook.remove()
    if share:
        grid = math.prod(edge // model.vision_model.config.patch_size for edge in image_size)
        model._patch_hook = model.vision_model.embeddings.register_forward_hook(
            lambda module, _, tokens: _drop_patches(tokens, grid, share) if module.training else tokens
        )


def _drop_patches(tokens, grid, share):
    """(B, S + grid, W) -> (B, S + kept, W); the S tokens in front (class, registers) stay."""
    front = tokens.shape[1] - grid
    kept = max(round(grid * (1 - share)), 1)
    chosen = torch.rand(len(tokens), grid, device=tokens.device).argsort(1)[:, :kept] + front
    patches = tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[2]))
    return torch.cat([tokens[:, :front], patches], 1)
