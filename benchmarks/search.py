"""Measure how long a search takes, against faiss if it is installed, and what an interrupted index encodes twice.

python -m benchmarks.search --model runs/flickr8k --data DATA

First the search alone, over random unit vectors. Then the index of the images of `DATA/wds_flickr8k`, as files: built
by `clipscratch index`, killed with SIGKILL, resumed, searched by captions, three images moved, updated, searched again.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from modeling_clipscratch.cli.command_line import quiet_libraries, run_command
from modeling_clipscratch.evaluation.encode import encode_texts
from modeling_clipscratch.evaluation.load_model import load_model
from modeling_clipscratch.search.image_index import FILE, INSIDE, ImageIndex, open_index, save_index
from modeling_clipscratch.search.search_index import nearest

from .reporting import REPOSITORY, machine, parser_of, print_table, save_figures

TOP = 10


def random_units(count: int, width: int, seed: int) -> np.ndarray:
    embeds = np.random.default_rng(seed).standard_normal((count, width), dtype=np.float32)
    return embeds / np.linalg.norm(embeds, axis=1, keepdims=True)


def random_index(folder: Path, count: int, width: int) -> ImageIndex:
    images = {f"{number:07d}.jpg": (0, 0, "") for number in range(count)}
    return ImageIndex(folder=folder, model="", model_name="", images=images, embeds=random_units(count, width, seed=0))


def measured(index: ImageIndex, queries: torch.Tensor) -> dict:
    """Milliseconds a query, and for how many the names are, in order, those of float64 rounded to 1e-6."""
    names, seconds, same = list(index.images), [], 0
    embeds = index.embeds.astype(np.float64)
    for query in queries:
        began = time.perf_counter()
        hits = nearest(index, query, TOP)
        seconds.append(time.perf_counter() - began)
        scores = (embeds @ query.double().numpy()).round(6)
        same += [hit.name for hit in hits] == [names[n] for n in np.argsort(-scores, kind="stable")[:TOP]]
    median, most = np.quantile(seconds, [0.5, 0.95]) * 1000
    return {"median_ms": median, "ms_of_95_percent": most, "queries": len(queries), "as_brute_force": same}


def faiss_ms(index: ImageIndex, queries: torch.Tensor) -> float | None:
    """Median milliseconds of the same search in faiss's exact index."""
    try:
        import faiss
    except ImportError:
        return None
    flat = faiss.IndexFlatIP(index.embeds.shape[1])
    flat.add(index.embeds)
    seconds = []
    for query in queries.numpy():
        began = time.perf_counter()
        flat.search(query[None], TOP)
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds)) * 1000


def unpack(folder: Path, images: Path, most: int) -> list[str]:
    """Write the images of all splits as files; return the first caption of each."""
    captions = []
    for shard in sorted(folder.glob("*/*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                if len(captions) == most and member.name.endswith(".jpg"):
                    return captions
                data = tar.extractfile(member).read()
                if member.name.endswith(".jpg"):
                    path = images / shard.parent.name / member.name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(data)
                elif member.name.endswith(".txt"):
                    captions.append(data.decode().splitlines()[0])
    return captions


def start_index(options: argparse.Namespace, images: Path) -> subprocess.Popen:
    program = "from modeling_clipscratch.cli.main import main; main()"
    command = [sys.executable, "-c", program, "index", str(images), "--model", options.model, "--device", "cpu"]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, env=os.environ)


def update(options: argparse.Namespace, images: Path) -> tuple[list[int], float]:
    """([images, encoded, known by content, unchanged, gone, unreadable], seconds) of one call."""
    began = time.monotonic()
    with start_index(options, images) as run:
        printed = run.stdout.read()
    if run.returncode:
        raise RuntimeError(f"the index ended with status {run.returncode}; see its message above.")
    return [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?= )", printed)], time.monotonic() - began


def kill_midway(options: argparse.Namespace, images: Path) -> float:
    """Start a build, kill it as soon as it has saved for the second time, and return how many seconds it ran."""
    began = time.monotonic()
    with start_index(options, images) as run:
        path, saved = images / INSIDE / FILE, set()
        while run.poll() is None and len(saved) < 2:
            time.sleep(0.05)
            saved |= {path.stat().st_mtime_ns} if path.is_file() else set()
        run.send_signal(signal.SIGKILL)
    if run.returncode != -signal.SIGKILL:
        raise RuntimeError("the build ended before it could be killed; give more --images.")
    return time.monotonic() - began


def main(arguments: list[str]) -> None:
    parser = parser_of("search")
    parser.add_argument("--model", required=True, help="folder of a trained model")
    parser.add_argument("--data", type=Path, required=True, help="folder of wds_flickr8k")
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--images", type=int, default=8000)
    options = parser.parse_args(arguments)
    quiet_libraries()
    print(machine(), f"{torch.get_num_threads()} thread(s)", sep=", ")
    figures, calls = {}, []
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work).resolve()
        (folder / "random").mkdir()
        save_index(random_index(folder / "random", options.vectors, options.width), folder / "random")
        began = time.perf_counter()
        index = open_index(folder / "random")
        figures["load_s"] = time.perf_counter() - began
        queries = torch.from_numpy(random_units(options.queries, options.width, seed=1))
        figures["random"] = measured(index, queries) | {"faiss_ms": faiss_ms(index, queries)}
        print(f"{options.vectors:,} x {options.width}: opened in {figures['load_s']:.2f} s")

        images = folder / "images"
        captions = unpack(options.data / "wds_flickr8k", images, options.images)
        killed = kill_midway(options, images)
        calls.append(["built, then SIGKILL", f"{killed:.0f} s", *["-"] * 6])

        def call(name):
            numbers, seconds = update(options, images)
            calls.append([name, f"{seconds:.0f} s", *(f"{number:,}" for number in numbers)])

        call("resumed")
        call("called again")
        model, processor = load_model(options.model, "cpu")
        texts = encode_texts(model, processor.tokenizer, captions[: options.queries])
        figures["built"] = measured(open_index(images), texts)
        for number, path in enumerate(sorted(images.rglob("*.jpg"))[:3]):
            path.rename(images / f"moved {number}.jpg")
        call("three moved")
        figures["moved"] = measured(open_index(images), texts)
    figures["calls"] = calls
    print_table(["index", "took", "images", "encoded", "known", "unchanged", "gone", "unreadable"], calls)
    head = ["median_ms", "ms_of_95_percent", "faiss_ms", "as_brute_force", "queries"]
    rows = []
    for name in ("random", "built", "moved"):
        values = (figures[name].get(column, "-") for column in head)
        rows.append([name, *(f"{value:.1f}" if isinstance(value, float) else str(value) for value in values)])
    print_table(["search of", *head], rows)
    save_figures(options.output / "search.json", figures)


if __name__ == "__main__":
    run_command(main)
