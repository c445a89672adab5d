"""Run a frozen tower once over all its inputs, and keep its pooled features on disk.

The name of a cached file is a digest of everything that its content depends on: the tower's weights and config,
pooling, normalisation, tokens or images, preprocessing. So a file is never out of date.
"""

import contextlib
import logging
import os
from pathlib import Path

import torch
import torch.distributed as dist
from huggingface_hub import constants
from tqdm.auto import tqdm

from ...data.batches.captions import TokenTable
from ...data.images.preprocess import normalize
from ...evaluation.encode import CPU_BATCH
from ...utils.atomic_files import explaining_failures, to_disk, write_whole
from ...utils.checksums import weights_fingerprint
from ..loss.gather import local_process_count, process_count, process_index

logger = logging.getLogger(__name__)

PART_ROWS = 1024  # about half a minute of a small ViT at 224 pixels on two CPU cores: what a kill may cost
_VERSION = 1  # of the files; raise it when other features would be found under the same name


def cached_text_features(model, tokens: TokenTable, *, batch_size=256, **cache) -> torch.Tensor:
    """Return the pooled features of U captions, (U, D) float32, memory-mapped."""

    def encode(start, stop, advance):
        features = torch.empty(stop - start, model.config.text_feature_dim)
        # Captions of similar length together: padding would be most of the work.
        for chosen in tokens.by_length(torch.arange(start, stop)).split(batch_size):
            inputs = {name: tensor.to(model.device) for name, tensor in tokens.batch(chosen).items()}
            features[chosen - start] = model.text_tower_features(**inputs)[1].float().cpu()
            advance(len(chosen))
        return features

    return _find_or_build(model, "text", tokens.fingerprint(), len(tokens.lengths), encode, **cache)


def cached_image_features(model, read, content, count: int, *, mean, std, batch_size=256, **cache) -> torch.Tensor:
    """Return the pooled features of `count` images, (N, D) float32, memory-mapped.

    `read` returns the uint8 (B, H, W, 3) batches of (n,) row indices and a batch size; `content` is what the pixels
    depend on: fingerprint of the rows, preprocessing.
    """
    batch_size = min(batch_size, CPU_BATCH) if model.device.type == "cpu" else batch_size

    def encode(start, stop, advance):
        features = []
        for images in read(torch.arange(start, stop), batch_size):
            pixel_values = normalize(images.to(model.device), mean, std)
            features.append(model.vision_tower_features(pixel_values)[1].float().cpu())
            advance(len(images))
        return torch.cat(features)

    return _find_or_build(model, "vision", [content, count, mean, std], count, encode, **cache)


@torch.inference_mode()
def _find_or_build(model, side, content, count, encode, *, split=None, folder=None, progress=True):
    tower, unit = getattr(model, f"{side}_model"), "image" if side == "vision" else side
    settings = [tower.config.to_diff_dict(), *(getattr(model.config, f"{side}_{n}") for n in ("pooling", "state_norm"))]
    key = weights_fingerprint(tower, [_VERSION, *settings, content])
    path = Path(folder or Path(constants.HF_HOME) / "clipscratch").expanduser() / f"{side}-{key}.float32"
    name = f"{unit} features" + (f" ({split})" if split else "")
    shape = (count, getattr(model.config, f"{side}_feature_dim"))
    bar = {"desc": f"computing {name}", "unit": f" {unit}s", "disable": not progress or process_index() > 0}
    features, was_there = find_or_build(path, shape, encode, **bar)
    logger.info("%s of %s %ss: %s %s", name, f"{count:,}", unit, "read from" if was_there else "written to", path)
    return features


def find_or_build(path: Path, shape: tuple[int, int], encode, **bar) -> tuple[torch.Tensor, bool]:
    """Return the features in a file of float32 numbers, and whether it was there; if not, it is computed first.

    The processes of a machine compute it together: rows are NaN until they are computed, so a killed run is resumed,
    and two runs that need the same file share the work. All processes must call this. `encode` computes rows start to
    stop on the CPU and calls advance(n) whenever n are done; `bar` are options of tqdm.
    """
    part = path.with_suffix(".part")
    is_first = int(os.environ.get("LOCAL_RANK", 0)) == 0  # of this machine, which may have a disk of its own
    if is_first and not _is_whole(path, shape) and not _is_whole(part, shape):
        with explaining_failures(path):
            write_whole(part, lambda file: _fill(file, *shape))  # a full disk is noticed now
    _wait()
    was_there = _is_whole(path, shape)
    if not was_there:
        _compute(_open(part, shape, shared=True), encode, bar)
    _wait()
    if is_first and not was_there:
        with contextlib.suppress(FileNotFoundError):  # another run was faster
            to_disk(part)
            part.replace(path)
    _wait()
    return _open(path, shape, shared=False), was_there


def _compute(features, encode, bar):
    starts = range(0, len(features), PART_ROWS)[int(os.environ.get("LOCAL_RANK", 0)) :: local_process_count()]
    parts = [features[start : start + PART_ROWS] for start in starts]
    with tqdm(total=sum(map(len, parts)), **bar) as progress:
        for start, rows in zip(starts, parts, strict=True):
            if rows.isnan().any():
                rows.copy_(encode(start, start + len(rows), progress.update))
            else:
                progress.update(len(rows))


def _is_whole(path, shape):
    return path.is_file() and path.stat().st_size == 4 * shape[0] * shape[1]


def _fill(path, count, width):
    with open(path, "wb") as file:
        for start in range(0, count, PART_ROWS):
            file.write(torch.full((min(PART_ROWS, count - start), width), torch.nan).numpy().tobytes())


def _open(path, shape, *, shared):
    return torch.from_file(str(path), shared=shared, size=shape[0] * shape[1], dtype=torch.float32).view(shape)


def _wait():
    if process_count() > 1:
        dist.barrier()
