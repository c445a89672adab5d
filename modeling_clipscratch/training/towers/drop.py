"""Leave random patches of each image out of a vision tower while it trains."""

import math

import torch

from ...utils.errors import ClipScratchError


def add_patch_dropout(model, share: float, image_size: tuple[int, int]) -> None:
    """Add a hook to a vision tower on the CPU that leaves a share of patches out in training only, and is not saved.

    Source: Li et al. 2022, arXiv 2212.00794.
    """
    if not 0 <= share < 1:
        raise ClipScratchError(f"patch_dropout={share} is not a share from 0 to below 1; choose 0.5 or less.")
    if share and model.config.freeze_vision:  # also with adapters: the tower itself is in evaluation mode
        raise ClipScratchError(
            f"patch_dropout={share} drops parts of a tower in training, but the vision tower is frozen; leave it out."
        )
    if "_patch_hook" in vars(model):  # of another Trainer
        model._patch_hook.remove()
    if not share:
        return
    tower, cause = model.vision_model, None
    was_training, images = tower.training, torch.zeros(1, 3, *image_size)
    fits = not any("rope" in name for name, _ in tower.named_modules())  # DINOv3 may not notice what is missing
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            grid = math.prod(edge // tower.config.patch_size for edge in image_size)
            fits &= tower.embeddings(images).shape[1] >= grid
            model._patch_hook = tower.embeddings.register_forward_hook(
                lambda module, _, tokens: _drop_patches(tokens, grid, share) if module.training else tokens
            )
            tower.train()(pixel_values=images)
        except (AttributeError, RuntimeError, TypeError) as error:  # no grid of patches, or blocks that expect all
            fits, cause = False, error
        finally:
            tower.train(was_training)
    if not fits:
        raise ClipScratchError(
            f"patch_dropout: a {tower.config.model_type} tower cannot leave patches out; leave patch_dropout out, or "
            "choose vit, deit, dinov2 or clip."
        ) from cause


def _drop_patches(tokens, grid, share):
    """(B, S + grid, W) -> (B, S + kept, W); the S tokens in front (class, registers) stay."""
    front = tokens.shape[1] - grid
    kept = max(round(grid * (1 - share)), 1)
    chosen = torch.rand(len(tokens), grid, device=tokens.device).argsort(1)[:, :kept] + front
    patches = tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[2]))
    return torch.cat([tokens[:, :front], patches], 1)
