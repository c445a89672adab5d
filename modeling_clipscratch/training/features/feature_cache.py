"""Run a frozen tower once over all its inputs, and keep its pooled features on disk.

The name of a cached file is a digest of everything that its content depends on: the tower's weights and config,
pooling, normalisation, tokens or images, preprocessing. So a file is never out of date.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from huggingface_hub import constants

from ...data.batches.captions import TokenTable
from ...data.images.preprocess import normalize
from ...evaluation.encode import CPU_BATCH
from ...utils.checksums import weights_fingerprint
from .feature_files import find_or_build

logger = logging.getLogger(__name__)

_VERSION = 1  # of the files; raise it when other features would be found under the same name


def cached_text_features(
    model, tokens: TokenTable, *, split=None, folder=None, batch_size=256, progress=True
) -> torch.Tensor:
    """Return the pooled features of the unique captions, from the cache or the tower.

    Args:
        model: its text tower is frozen.
        tokens: U captions, tokenised.
        split: name of their split, for the progress bar.
        folder: of all cached files; default `clipscratch` in the Hugging Face cache.

    Returns:
        (U, D) float32, memory-mapped.
    """

    def encode(start, stop, advance):
        features = torch.empty(stop - start, model.config.text_feature_dim)
        # Captions of similar length together: padding would be most of the work.
        for chosen in tokens.by_length(torch.arange(start, stop)).split(batch_size):
            inputs = {name: tensor.to(model.device) for name, tensor in tokens.batch(chosen).items()}
            features[chosen - start] = model.text_tower_features(**inputs)[1].float().cpu()
            advance(len(chosen))
        return features

    return _find_or_build(model, "text", tokens.fingerprint(), len(tokens), encode, split, folder, progress)


def cached_image_features(
    model,
    read: Callable[[torch.Tensor, int], Iterator[torch.Tensor]],
    content: object,
    count: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    split=None,
    folder=None,
    batch_size=256,
    progress=True,
) -> torch.Tensor:
    """Return the pooled features of N images, from the cache or the tower.

    Args:
        model: its vision tower is frozen.
        read: function of (n,) row indices and a batch size -> their images, uint8 (B, H, W, 3) one batch after
            another. It is called for rows that are not in the cache.
        content: what the pixels depend on (fingerprint of the rows, preprocessing).
        count: N.
        mean: (3,) of the image processor; and `std`.

    Returns:
        (N, D) float32, memory-mapped.
    """
    batch_size = min(batch_size, CPU_BATCH) if model.device.type == "cpu" else batch_size

    def encode(start, stop, advance):
        features = []
        for images in read(torch.arange(start, stop), batch_size):
            pixel_values = normalize(images.to(model.device), mean, std)
            features.append(model.vision_tower_features(pixel_values)[1].float().cpu())
            advance(len(images))
        return torch.cat(features)

    return _find_or_build(model, "image", [content, count, mean, std], count, encode, split, folder, progress)


@torch.inference_mode()
def _find_or_build(model, unit, content, count, encode, split, folder, progress):
    side, tower = ("text", model.text_model) if unit == "text" else ("vision", model.vision_model)
    settings = [tower.config.to_diff_dict(), *(getattr(model.config, f"{side}_{n}") for n in ("pooling", "state_norm"))]
    key = weights_fingerprint(tower, [_VERSION, *settings, content])
    folder = Path(folder or Path(constants.HF_HOME) / "clipscratch").expanduser()
    path = folder / f"{side}-{key}.safetensors"
    name = f"{unit} features" + (f" ({split})" if split else "")
    options = {"device": model.device, "name": name, "unit": unit, "progress": progress}
    features, was_there = find_or_build(path, count, encode, **options)
    logger.info("%s of %s %ss: %s %s", name, f"{count:,}", unit, "read from" if was_there else "written to", path)
    return features
