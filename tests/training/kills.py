"""Kill a short run again and again, start it again, and print the SHA-256 of its weights.

python -m tests.training.kills --kills 20 --processes 1 2 --workers 0 1 4
python -m tests.training.kills --stream --kills 20 --processes 1 2 --workers 0 2

The program forks each attempt from itself, after the imports, so that a kill can fall anywhere in a run, not mostly
into the seconds of importing. What is forked is what `run_train.py` does under `accelerate launch`.
"""

import argparse
import hashlib
import io
import os
import random
import shutil
import signal
import socket
import sys
import tarfile
import tempfile
import time
import traceback
from pathlib import Path

import torch
import yaml

from modeling_clipscratch.cli.command_line import quiet_libraries
from modeling_clipscratch.data.dataset import ImageReader, class_names
from modeling_clipscratch.data.load import load_data
from modeling_clipscratch.training.recipe.recipe import parse_recipe
from modeling_clipscratch.training.run import train

# Dropout (DistilBERT's 0.1), augmentation, one of several captions, chunks; and the best of several checkpoints.
RECIPE = {
    "dataset": "digits", "text_tower": "distilbert", "text_hidden_size": 16, "text_num_layers": 1, "text_num_heads": 2,
    "freeze_text": False, "vision_tower": "vit", "vision_hidden_size": 16, "vision_num_layers": 1,
    "vision_num_heads": 2, "image_size": 8, "patch_size": 4, "projection_dim": 16, "global_batch_size": 200,
    "encode_chunk_size": 64, "max_steps": 40, "random_shift": 1, "random_erasing": 0.5,
    "bf16": False, "attention": "sdpa", "disable_tqdm": True, "eval_strategy": "steps", "eval_steps": 3,
    "save_strategy": "steps", "save_steps": 3, "test_split": "none", "enable_jit_checkpoint": True,
    "resume_from_checkpoint": "auto", "learning_rate": 0.01, "muon_learning_rate": 0.02, "ema_decay": 0.9,
}  # fmt: skip


def start(folder: Path, processes: int, workers: int) -> list[int]:
    """Fork the processes of one attempt; each leads a group of its own with its workers."""
    port = _free_port()
    return [_fork(folder, rank, processes, port, workers) for rank in range(processes)]


def _fork(folder, rank, processes, port, workers):
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()
        log = os.open(folder.parent / f"{folder.name}.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if processes > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": str(processes)}
        recipe = folder.parent / "recipe.yaml"
        arguments = [str(recipe), "--output_dir", str(folder), "--dataloader_num_workers", str(workers)]
        train(*parse_recipe(arguments))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def end_within(children: list[int], seconds: float) -> bool:
    """Wait for processes, kill all of those that are not done in time, and return whether there were none."""
    deadline, left, well = time.monotonic() + seconds, set(children), True
    while left and time.monotonic() < deadline:
        for child in list(left):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                left.discard(child)
                well = well and status == 0
        time.sleep(0.005)
    for child in left:
        os.killpg(child, signal.SIGKILL)
    for child in left:
        os.waitpid(child, 0)
    if not well:
        raise RuntimeError("a process ended by itself, and not well")
    return not left


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def killed_run(folder: Path, *, processes: int, workers: int, kills: int, seconds: float, draw) -> tuple[str, int]:
    """Start the run, kill it `kills` times at moments drawn from its whole length, and let it end.

    Returns:
        The digest of its weights, and how many of the kills fell into the writing of a checkpoint.
    """
    writing = 0
    for _ in range(kills):
        moment = draw.uniform(0.05, seconds)
        while end_within(start(folder, processes, workers), moment):  # it reached its end: start another one
            if not (folder / "model.safetensors").is_file():
                raise RuntimeError("ended without weights")
            shutil.rmtree(folder)
            moment = draw.uniform(0.05, seconds)
        writing += (folder / ".incomplete").is_dir()
    assert end_within(start(folder, processes, workers), 300)
    return digest(folder), writing


def prepare(base: Path, **changes) -> None:
    (base / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, "cache_dir": str(base / "cache"), **changes}))
    quiet_libraries()
    torch.set_num_threads(1)


def write_tars(folder: Path, *, shards: int = 5) -> None:
    """Write the digits as tar shards, for runs that stream: train in several, validation in one."""
    data = load_data("digits")
    for split, names in {"train": [f"{number}.tar" for number in range(shards)], "validation": ["0.tar"]}.items():
        (folder / split).mkdir(parents=True)
        rows = data[split]
        read, labels = ImageReader(rows), rows["label"][:]
        for shard, name in enumerate(names):
            with tarfile.open(folder / split / name, "w") as tar:
                for index in range(shard, len(rows), len(names)):
                    image = io.BytesIO()
                    read(index).save(image, "PNG")
                    for ending, part in (("png", image.getvalue()), ("cls", str(labels[index]).encode())):
                        member = tarfile.TarInfo(f"{rows[index]['key']}.{ending}")
                        member.size = len(part)
                        tar.addfile(member, io.BytesIO(part))
    (folder / "classnames.txt").write_text("\n".join(class_names(rows)))


def straight_run(folder: Path, *, processes: int, workers: int) -> tuple[str, float]:
    """Return the digest of the weights of an uninterrupted run, and its seconds."""
    began = time.monotonic()
    assert end_within(start(folder, processes, workers), 300)
    return digest(folder), time.monotonic() - began


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 4])
    parser.add_argument("--stream", action="store_true")
    options = parser.parse_args()
    draw, failed = random.Random(0), 0
    with tempfile.TemporaryDirectory() as base:
        base = Path(base)
        changes = {}
        if options.stream:
            write_tars(base / "tars")
            changes = {"dataset": str(base / "tars"), "streaming": True, "stream_shuffle_rows": 128}
        prepare(base, **changes)
        for processes in options.processes:
            for workers in options.workers:
                name = f"{processes}-{workers}"
                expected, seconds = straight_run(base / f"straight-{name}", processes=processes, workers=workers)
                found, writing = killed_run(
                    base / f"killed-{name}", processes=processes, workers=workers, kills=options.kills,
                    seconds=seconds, draw=draw,
                )  # fmt: skip
                failed += found != expected
                same = "the same weights" if found == expected else "OTHER WEIGHTS"
                print(f"{processes} process(es), {workers} workers, {seconds:.1f} s straight: {options.kills} kills "
                      f"({writing} while a checkpoint was written), {same} {found[:16]}", flush=True)  # fmt: skip
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
