"""Compute the features of all rows once, in a memory-mapped file that is checked whenever it is used again.

All processes compute a file together, in parts that are written whole or not at all, so a killed run is resumed.
Another run that needs the same file waits. Machines that share no disk each end with a file of their own.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from ...utils.atomic_files import WriteError, explaining_failures, write_whole
from ..loss.gather import local_process_count, process_count, process_index, sum_over_processes

logger = logging.getLogger(__name__)

PART_ROWS = 1024  # about half a minute of a small ViT at 224 pixels on two CPU cores: what a kill may cost


def find_or_build(
    path: Path,
    count: int,
    encode: Callable[[int, int, Callable[[int], object]], torch.Tensor],
    *,
    device: torch.device | str,
    name: str,
    unit: str,
    progress: bool,
) -> tuple[torch.Tensor, bool]:
    """Return the features of a file, which is computed first if there is none.

    Args:
        path: of the file; equal on all processes, which must all call this.
        count: N rows.
        encode: function (start, stop, advance) -> (stop - start, D) float32 features of these rows, on the CPU. It
            calls advance(n) whenever n rows are done.
        device: on which messages between processes travel.
        name: of the features, for the progress bar; `unit` is that of a row.
        progress: show a progress bar.

    Returns:
        (N, D) float32, memory-mapped; and whether the file was there already.

    Raises:
        WriteError: If the disk is full or cannot be written to.
    """
    is_local_main = int(os.environ.get("LOCAL_RANK", 0)) == 0  # each machine may have a disk of its own
    if is_local_main and path.is_file() and not _is_intact(path, count):
        logger.warning("%s is damaged; its features are computed again.", path)
        path.unlink()
    _wait()
    missing = int(sum_over_processes(torch.tensor(int(not path.is_file()), device=device)))
    if missing:
        parts = path.with_suffix(f".parts{PART_ROWS}")
        try:
            with _only_run(parts):
                _build(path, parts, count, encode, name, unit, progress)
                if is_local_main:
                    shutil.rmtree(parts, ignore_errors=True)
        except WriteError as error:
            raise WriteError(f"{error} (cache_dir sets the place of cached features.)") from error
    with safe_open(path, framework="pt") as file:  # pages are read when they are used
        return file.get_tensor("features"), not missing


@contextlib.contextmanager
def _only_run(parts):
    """Let one run at a time compute a file; the first process holds the lock for all of the run."""
    lock = FileLock(parts / "lock")
    if process_index() == 0:
        with explaining_failures(parts.parent):
            parts.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                logger.info("waiting for another run that computes %s", parts.with_suffix(".safetensors"))
                lock.acquire()
    _wait()
    try:
        yield
    finally:
        lock.release()


def _build(path, parts, count, encode, name, unit, progress):
    starts = range(0, count, PART_ROWS)
    own = starts[process_index() :: process_count()]
    if process_count() > 1:
        name += f" (process 1 of {process_count()})"
    total = sum(min(PART_ROWS, count - start) for start in own)
    with tqdm(
        total=total, unit=f" {unit}s", desc=f"computing {name}", disable=not progress or process_index() > 0
    ) as bar:
        for start in own:
            _make_part(path, parts, start, count, encode, bar.update)
    _wait()
    local = int(os.environ.get("LOCAL_RANK", 0))
    for start in starts[local :: local_process_count()]:  # parts that another machine wrote to its own disk
        _make_part(path, parts, start, count, encode, lambda rows: None)
    _wait()
    if local == 0 and not path.is_file():
        write_whole(path, lambda file: _join(file, parts, starts, count))
    _wait()


def _make_part(path, parts, start, count, encode, advance):
    part, stop = _part(parts, start), min(start + PART_ROWS, count)
    if path.is_file() or _is_whole(path, part, start):
        advance(stop - start)
        return
    features = encode(start, stop, advance).contiguous()
    metadata = {"sha256": _digest(path, start, features)}
    write_whole(part, lambda file: save_file({"features": features}, file, metadata=metadata))


def _part(parts, start):
    return parts / f"{start:010d}.safetensors"


def _digest(path, start, features):
    """Digest of a part's rows, their place and what the file is named after, so that no part passes for another."""
    digest = hashlib.sha256(f"{path.stem} {start} {tuple(features.shape)}".encode())
    digest.update(features.contiguous().numpy())
    return digest.hexdigest()


def _read(path):
    """Return the digests and the features of a file; nothing of one that cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("sha256", "").split(), file.get_tensor("features")
    except (SafetensorError, FileNotFoundError):
        return [], torch.empty(0, 0)


def _is_intact(path, count):
    digests, features = _read(path)
    parts = enumerate(features.split(PART_ROWS))
    return len(features) == count and digests == [_digest(path, n * PART_ROWS, part) for n, part in parts]


def _is_whole(path, part, start):
    if not part.is_file():
        return False
    digests, features = _read(part)
    if digests == [_digest(path, start, features)]:
        return True
    logger.warning("%s is damaged; its features are computed again.", part)
    return False


def _join(name, parts, starts, count):
    """Write the safetensors format part by part, since the features of all rows may not fit into memory."""
    digests, width = [], 0
    for start in starts:
        with safe_open(_part(parts, start), framework="pt") as file:
            digests.append(file.metadata()["sha256"])
            width = file.get_slice("features").get_shape()[1]
    entry = {"dtype": "F32", "shape": [count, width], "data_offsets": [0, 4 * count * width]}
    header = json.dumps({"__metadata__": {"sha256": " ".join(digests)}, "features": entry}).encode()
    header += b" " * (-len(header) % 8)  # the format aligns its data so
    with open(name, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for start in starts:
            file.write(load_file(_part(parts, start))["features"].numpy().astype("<f4", copy=False).tobytes())


def _wait():
    if process_count() > 1:
        dist.barrier()
