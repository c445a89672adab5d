"""Build a memory-mapped file with the features of all rows of a frozen tower, and check it when it is used again.

All processes build a file together, in parts that are whole or not there. So a build that was killed is resumed, two
runs that want the same file use each other's parts, and machines that share no disk each end with a file of their own.
Each part has a digest: a damaged one is encoded again.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from ..loss.gather import local_process_count, process_count, process_index, sum_over_processes
from ..saving.run_folder import saying_what_failed

logger = logging.getLogger(__name__)

PART_ROWS = 1024  # about half a minute of a small ViT at 224 pixels on two CPU cores: what a kill may cost


def find_or_build(
    path: Path, count: int, encode: Callable[[int, int], torch.Tensor], *, device, unit: str, progress: bool
) -> tuple[torch.Tensor, bool]:
    """
    Args:
        path: of the file; equal on all processes, which must all call this.
        count: N rows.
        encode: function (start, stop) -> (stop - start, D) float32 states of these rows, on the CPU.
        device: where messages between processes travel.
        unit, progress: of the bar.
    Returns: (N, D) float32, memory-mapped; and whether it was there already.
    """
    parts = path.with_suffix(f".parts{PART_ROWS}")
    local = int(os.environ.get("LOCAL_RANK", 0)) == 0  # a machine with a disk of its own looks at that
    if local and path.is_file():
        _keep_whole_parts(path, parts, count)
    _wait()
    missing = int(sum_over_processes(torch.tensor(int(not path.is_file()), device=device)))
    if missing:
        _build(path, parts, count, encode, unit=unit, progress=progress)
    if local:
        shutil.rmtree(parts, ignore_errors=True)
    with safe_open(path, framework="pt") as file:  # pages come in as they are read
        return file.get_tensor("states"), not missing


def _keep_whole_parts(path, parts, count):
    """Check a file against its digests. Of a damaged one the whole parts stay, as files in `parts`."""
    try:
        with safe_open(path, framework="pt") as file:
            digests = (file.metadata() or {}).get("sha256", "").split()
            states = file.get_tensor("states")
    except (SafetensorError, FileNotFoundError):
        digests, states = [], torch.empty(1)
    pieces = dict(zip(range(0, len(states), PART_ROWS), states.split(PART_ROWS), strict=False))
    whole = [
        start for start, digest in zip(pieces, digests, strict=False) if _digest(path, start, pieces[start]) == digest
    ]
    if len(states) == count and len(whole) == len(pieces) == len(digests):
        return
    logger.warning("%s: %d of %d parts are damaged and encoded again.", path, len(pieces) - len(whole), len(pieces))
    for start in whole:
        with _saying_what_failed(path), _written_whole(_part(parts, start), parts) as part:
            _save_part(path, start, pieces[start], part)
    del pieces, states
    path.unlink(missing_ok=True)


def _digest(path, start, states):
    """Of a part's rows, their place and what the file is named after, so that no part passes for another."""
    digest = hashlib.sha256(f"{path.stem} {start} {tuple(states.shape)}".encode())
    digest.update(states.contiguous().numpy())
    return digest.hexdigest()


def _save_part(path, start, states, name):
    save_file({"states": states.contiguous()}, name, metadata={"sha256": _digest(path, start, states)})


def _build(path, parts, count, encode, *, unit, progress):
    starts = range(0, count, PART_ROWS)
    local, locals_ = int(os.environ.get("LOCAL_RANK", 0)), local_process_count()
    mine = starts[process_index() :: process_count()]
    quiet = not progress or process_index() > 0
    with tqdm(total=len(mine) * PART_ROWS, unit=unit, desc=f"encoding {unit}s once", disable=quiet) as bar:
        for number in range(len(mine)):
            start = mine[(number + os.getpid()) % len(mine)]  # two runs begin at different parts
            _make_part(path, parts, start, count, encode)
            bar.update(PART_ROWS)
    _wait()
    for start in starts[local::locals_]:  # those of machines that write to another disk
        _make_part(path, parts, start, count, encode)
    _wait()
    if local == 0:
        with _saying_what_failed(path), _unless_there(path):
            _join(path, parts, starts, count)
    _wait()


def _part(parts, start):
    return parts / f"{start:010d}.safetensors"


def _make_part(path, parts, start, count, encode):
    if path.is_file() or _is_whole(path, parts, start):
        return
    states = encode(start, min(start + PART_ROWS, count))
    with _saying_what_failed(path), _unless_there(path), _written_whole(_part(parts, start), parts) as part:
        _save_part(path, start, states, part)


def _is_whole(path, parts, start):
    part = _part(parts, start)
    if not part.is_file():
        return False
    with contextlib.suppress(SafetensorError, FileNotFoundError), safe_open(part, framework="pt") as file:
        if (file.metadata() or {}).get("sha256") == _digest(path, start, file.get_tensor("states")):
            return True
    logger.warning("%s is damaged and encoded again.", part)
    return False


def _join(path, parts, starts, count):
    """Write the safetensors format part after part, since the states of all rows may not fit into memory."""
    if path.is_file():
        return
    digests, width = [], 0
    for start in starts:
        with safe_open(_part(parts, start), framework="pt") as file:
            digests.append(file.metadata()["sha256"])
            width = file.get_slice("states").get_shape()[1]
    entry = {"dtype": "F32", "shape": [count, width], "data_offsets": [0, 4 * count * width]}
    header = json.dumps({"__metadata__": {"sha256": " ".join(digests)}, "states": entry}).encode()
    header += b" " * (-len(header) % 8)  # the format aligns its data so
    with _written_whole(path, parts) as whole, open(whole, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for start in starts:
            file.write(load_file(_part(parts, start))["states"].numpy().astype("<f4", copy=False).tobytes())


@contextlib.contextmanager
def _written_whole(path, folder):
    """A name in `folder` to write to; what stands there at the end is brought to disk and renamed to `path`."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=path.stem[:12] + ".", suffix=".part")
    os.close(descriptor)
    try:
        yield name
        with open(name, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # a temporary file is for its owner only
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


@contextlib.contextmanager
def _unless_there(path):
    """Another run that built the same file takes the parts away; then it is there, and all is well."""
    try:
        yield
    except (FileNotFoundError, SafetensorError):
        if not path.is_file():
            raise


def _saying_what_failed(path):
    return saying_what_failed(path.parent, remedy="make room, or set cache_dir to another disk, and start again.")


def _wait():
    if process_count() > 1:
        dist.barrier()
