"""Leave random patches and blocks of each image out of a vision tower while it trains."""

import torch

from ...hub.towers_clipscratch import last_blocks
from ...utils.errors import ClipScratchError


def add_drops(model, *, patches: float, blocks: float, image_size: tuple[int, int]) -> None:
    """Add hooks to the vision tower that act in training only and are not saved.

    Args:
        model: on the CPU.
        patches: share of an image's patches that are left out, in [0, 1); a step then has less to compute.
        blocks: probability that an image passes the last block unchanged, in [0, 1). It falls linearly to 0 at the
            first block.
        image_size: height and width of the images in pixels.

    Raises:
        ClipScratchError: If a share is outside [0, 1), the part is frozen, or the tower has no grid of patches.

    Source: patches Li et al. 2022, arXiv 2212.00794; blocks Huang et al. 2016, arXiv 1603.09382.
    """
    for name, share in (("patch_dropout", patches), ("drop_path", blocks)):
        if not 0 <= share < 1:
            raise ClipScratchError(f"{name}={share} is not a share from 0 to below 1; choose 0.5 or less.")
        trains = not model.config.freeze_vision or (name == "drop_path" and model.config.unfreeze_vision_layers)
        if share and not trains:  # also with adapters: the tower itself is in evaluation mode
            raise ClipScratchError(
                f"{name}={share} drops parts of a tower in training, but the vision tower is frozen; leave it out."
            )
    tower = model.vision_model
    for hook in vars(model).pop("_drop_hooks", []):  # of another Trainer
        hook.remove()
    hooks = model._drop_hooks = []
    if patches:
        grid = _count_patches(tower, *image_size)
        forward = tower.embeddings.register_forward_hook
        hooks.append(forward(lambda module, _, output: _drop_patches(output, grid, patches, module)))
        _check_forward(tower, torch.zeros(1, 3, *image_size))
    if blocks:
        count = tower.config.num_hidden_layers
        for place, block in enumerate(last_blocks(tower, count)):
            rate = blocks * place / max(count - 1, 1)
            forward = block.register_forward_hook
            hooks.append(forward(lambda module, args, output, rate=rate: _drop_block(args[0], output, rate, module)))


def _count_patches(tower, height, width):
    tokens, patch = None, getattr(tower.config, "patch_size", None)
    if isinstance(patch, int):
        with torch.no_grad():
            tokens = tower.embeddings(torch.zeros(1, 3, height, width))
    grid = 0 if tokens is None else (height // patch) * (width // patch)
    if not isinstance(tokens, torch.Tensor) or tokens.dim() != 3 or tokens.shape[1] < grid:
        raise ClipScratchError(
            f"patch_dropout needs a tower that cuts images into patches; a {tower.config.model_type} does not."
        )
    return grid


def _check_forward(tower, images):
    """Raise `ClipScratchError` if blocks add positions of all patches (BEiT raises; DINOv3 may not notice)."""
    was_training, cause = tower.training, None
    fits = not any("rope" in name for name, _ in tower.named_modules())
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            tower.train()(pixel_values=images)
        except RuntimeError as error:
            fits, cause = False, error
        finally:
            tower.train(was_training)
    if not fits:
        raise ClipScratchError(
            f"patch_dropout: a {tower.config.model_type} tower cannot leave patches out, since its blocks expect all "
            "of them; leave patch_dropout out, or choose vit, deit, dinov2 or clip."
        ) from cause


def _drop_patches(tokens, grid, share, module):
    """(B, S + grid, W) -> (B, S + kept, W); the S tokens in front (class, registers) stay."""
    if not module.training:
        return tokens
    front = tokens.shape[1] - grid
    kept = max(round(grid * (1 - share)), 1)
    chosen = torch.rand(len(tokens), grid, device=tokens.device).argsort(1)[:, :kept] + front
    patches = tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[2]))
    return torch.cat([tokens[:, :front], patches], 1)


def _drop_block(before, output, rate, module):
    """Drop what a block adds for some images, and scale it by 1 / (1 - rate) for the others."""
    if not module.training or rate == 0:
        return output
    after = output[0] if isinstance(output, tuple) else output
    kept = (torch.rand(len(after), 1, 1, device=after.device) >= rate).to(after.dtype) / (1 - rate)
    mixed = before + (after - before) * kept
    return (mixed, *output[1:]) if isinstance(output, tuple) else mixed
