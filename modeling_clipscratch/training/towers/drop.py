"""A vision tower goes in; while it trains, random patches and blocks of each picture are left out of it."""

import torch

from ...hub.errors_clipscratch import ClipScratchError
from ...hub.towers_clipscratch import last_blocks


def add_drops(model, *, patches: float, blocks: float, image_size: tuple[int, int]) -> None:
    """Hooks that work in training only and are no part of what is saved.

    Args:
        model: on the CPU.
        patches: share of a picture's patches that are left out, so that a step has less to compute.
        blocks: probability that a picture passes the last block unchanged; less for those before, none for the first.
        image_size: height and width of the pictures, in pixels.
    Raises: ClipScratchError for shares outside [0, 1), parts that are frozen, or a tower that has no grid of patches.
    Source: patches Li et al. 2022, arXiv 2212.00794; blocks Huang et al. 2016, arXiv 1603.09382.
    """
    for name, share in (("patch_dropout", patches), ("drop_path", blocks)):
        if not 0 <= share < 1:
            raise ClipScratchError(f"{name}={share} is not a share from 0 to below 1; choose 0.5 or less.")
        trains = not model.config.freeze_vision or (name == "drop_path" and model.config.unfreeze_vision_layers)
        if share and not trains:  # with adapters, too: the tower itself is as in evaluation
            raise ClipScratchError(
                f"{name}={share} drops parts of a tower in training, but the vision tower is frozen."
            )
    tower = model.vision_model
    for hook in vars(model).pop("_drop_hooks", []):  # of another Trainer
        hook.remove()
    hooks = model._drop_hooks = []
    if patches:
        grid = _grid(tower, *image_size)
        forward = tower.embeddings.register_forward_hook
        hooks.append(forward(lambda module, _, out: _drop_patches(out, grid, patches, module)))
        _try(tower, torch.zeros(1, 3, *image_size))
    if blocks:
        count = tower.config.num_hidden_layers
        for place, block in enumerate(last_blocks(tower, count)):
            rate = blocks * place / max(count - 1, 1)
            forward = block.register_forward_hook
            hooks.append(forward(lambda module, given, out, rate=rate: _drop_block(given[0], out, rate, module)))


def _grid(tower, height, width):
    """Number of patches of a picture."""
    tokens, patch = None, getattr(tower.config, "patch_size", None)
    if isinstance(patch, int):
        with torch.no_grad():
            tokens = tower.embeddings(torch.zeros(1, 3, height, width))
    grid = 0 if tokens is None else (height // patch) * (width // patch)
    if not isinstance(tokens, torch.Tensor) or tokens.dim() != 3 or tokens.shape[1] < grid:
        raise ClipScratchError(
            f"patch_dropout needs a tower that cuts pictures into patches; a {tower.config.model_type} does not."
        )
    return grid


def _try(tower, pictures):
    """One step forward: positions that a tower adds in its blocks (BEiT; DINOv3, which may not notice) are those of
    all patches."""
    was_training, why = tower.training, None
    fits = not any("rope" in name for name, _ in tower.named_modules())
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            tower.train()(pixel_values=pictures)
        except RuntimeError as error:
            fits, why = False, error
        finally:
            tower.train(was_training)
    if not fits:
        raise ClipScratchError(
            f"patch_dropout: a {tower.config.model_type} tower cannot leave patches out, since its blocks count on all "
            "of them; leave patch_dropout out, or choose vit, deit, dinov2 or clip."
        ) from why


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
