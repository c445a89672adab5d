"""A function that encodes some rows goes in; one memory-mapped file with the states of all rows comes out.

All processes build a file together, in parts that are whole or not there. So a build that was killed goes on, two
runs that want the same file use each other's parts, and machines that share no disk each end with a file of their own.
"""

import contextlib
import json
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

from .gather import local_process_count, process_count, process_index, sum_over_processes

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
    missing = int(sum_over_processes(torch.tensor(int(not path.is_file()), device=device)))
    parts = path.with_suffix(f".parts{PART_ROWS}")
    if missing:
        _build(path, parts, count, encode, unit=unit, progress=progress)
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        shutil.rmtree(parts, ignore_errors=True)
    with safe_open(path, framework="pt") as file:  # pages come in as they are read
        return file.get_tensor("states"), not missing


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
        with _unless_there(path):
            _join(path, parts, starts, count)
    _wait()


def _part(parts, start):
    return parts / f"{start:010d}.safetensors"


def _make_part(path, parts, start, count, encode):
    if path.is_file() or _part(parts, start).is_file():
        return
    states = encode(start, min(start + PART_ROWS, count))
    with _unless_there(path), _written_whole(_part(parts, start), parts) as part:
        save_file({"states": states}, part)


def _join(path, parts, starts, count):
    """Writes the safetensors format part after part, since the states of all rows may not fit into memory."""
    if path.is_file():
        return
    width = load_file(_part(parts, 0))["states"].shape[1]
    entry = {"dtype": "F32", "shape": [count, width], "data_offsets": [0, 4 * count * width]}
    header = json.dumps({"states": entry}).encode()
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


def _wait():
    if process_count() > 1:
        dist.barrier()
