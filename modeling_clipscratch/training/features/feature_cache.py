"""A frozen tower and all it will ever see go in; its pooled states, memory-mapped from disk, come out.

A cache is found by a key over everything that its content depends on: tower weights and config, pooling,
normalisation, tokens or pictures, preprocessing. What differs has another key, so a cache is never stale.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import constants

from ...data.batches.captions import TokenTable
from ...data.images.augment import Augment
from ...data.images.preprocess import normalize
from ...data.images.randomness import key_ids, sample_ids
from ...evaluation.encode import CPU_BATCH
from .feature_files import find_or_build

logger = logging.getLogger(__name__)


def cached_text_features(model, tokens: TokenTable, *, folder=None, batch_size=256, progress=True) -> torch.Tensor:
    """(U, D) float32 pooled states of the unique captions, from the cache or the tower.

    Args:
        model: its text tower is frozen.
        tokens: the captions, tokenised; their token ids are part of the key.
        folder: of all caches; default `clipscratch` in the Hugging Face cache.
        batch_size: captions at once.
        progress: show a bar.
    """
    key = _key(model, "text", tokens.fingerprint())

    def encode(start, stop):
        states = torch.empty(stop - start, model.config.text_feature_dim)
        # Captions of like length together: padding would be most of the work.
        for chosen in tokens.by_length(torch.arange(start, stop)).split(batch_size):
            inputs = {name: tensor.to(model.device) for name, tensor in tokens.batch(chosen).items()}
            states[chosen - start] = model.text_tower_features(**inputs)[1].float().cpu()
        return states

    return _find_or_build(model, key, "caption", len(tokens), encode, folder, progress)


def cached_image_features(
    model,
    read: Callable[[np.ndarray], np.ndarray],
    content,
    keys,
    augment: Augment,
    *,
    views=1,
    seed=0,
    may_flip=None,
    folder=None,
    batch_size=256,
    progress=True,
) -> torch.Tensor:
    """(N, V, D) float32 pooled states of N pictures in V views, from the cache or the tower.

    Args:
        model: its vision tower is frozen.
        read: function of (n,) ascending indices -> uint8 (n, H, W, 3), decoded and resized; called for what is not in
            the cache only.
        content: what the pixels depend on (fingerprint of the rows, preprocessing), for the cache's key.
        keys: (N,) row keys, for the views' randomness.
        augment: how views after the first differ from it; the first is the plain picture.
        views: V.
        seed: of the views.
        may_flip: (N,) bool, False where a caption of the picture speaks of left or right; default all True.
        folder, batch_size, progress: as for `text_features`.
    """
    may_flip = torch.ones(len(keys), dtype=torch.bool) if may_flip is None else may_flip
    looks = [augment.mean, augment.std]
    looks += [views, seed, repr(augment), *keys, may_flip.tolist()] if views > 1 else []
    batch_size = min(batch_size, CPU_BATCH) if model.device.type == "cpu" else batch_size
    key = _key(model, "vision", [content, len(keys), looks])
    ids = key_ids(keys)

    def encode(start, stop):
        states = torch.empty(stop - start, model.config.vision_feature_dim)
        places = torch.arange(start, stop)  # view 0 of picture 0, view 1 of picture 0, ...
        pictures = torch.arange(start // views, (stop - 1) // views + 1)
        pixels = torch.from_numpy(read(pictures.numpy()))
        for view in (places % views).unique().tolist():
            for chosen in places[places % views == view].split(batch_size):
                images = pixels[chosen // views - pictures[0]].to(model.device)
                states[chosen - start] = encode_view(images, chosen // views, view).float().cpu()
        return states

    def encode_view(images, chosen, view):
        if view == 0:
            pixel_values = normalize(images, augment.mean, augment.std)
        else:
            samples = sample_ids(ids[chosen], seed=seed, epoch=view).to(model.device)
            pixel_values = augment(images, samples, may_flip[chosen].to(model.device))
        return model.vision_tower_features(pixel_values)[1]

    found = _find_or_build(model, key, "picture", len(keys) * views, encode, folder, progress)
    return found.view(len(keys), views, -1)


def _key(model, side, content):
    tower = model.text_model if side == "text" else model.vision_model
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tower.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    settings = [
        tower.config.to_diff_dict(),
        getattr(model.config, f"{side}_pooling"),
        getattr(model.config, f"{side}_state_norm"),
        content,
    ]
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return f"{side}-{digest.hexdigest()}"


@torch.inference_mode()
def _find_or_build(model, key, unit, count, encode, folder, progress):
    folder = Path(folder or Path(constants.HF_HOME) / "clipscratch").expanduser()
    path = folder / f"{key}.safetensors"
    states, found = find_or_build(path, count, encode, device=model.device, unit=unit, progress=progress)
    logger.info("states of %s %ss: %s %s", f"{count:,}", unit, "found in" if found else "written to", path)
    return states
