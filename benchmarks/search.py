"""A trained model and Flickr8k's tars go in; how long a search takes, and how little an index encodes twice, comes out.

python -m benchmarks.search --model runs/flickr8k --data DATA

First the search alone, over random unit vectors. Then an index of `DATA/wds_flickr8k`'s pictures, as files: built by
`clipscratch index`, killed with SIGKILL, gone on with, searched by captions, three pictures moved, brought up to
date, searched again.
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
from modeling_clipscratch.data.images.decode import is_picture_name
from modeling_clipscratch.evaluation.encode import encode_texts
from modeling_clipscratch.evaluation.load_model import load_model
from modeling_clipscratch.search.index_files import INSIDE, Picture, PictureIndex, open_index, save_index
from modeling_clipscratch.search.search_index import best
from modeling_clipscratch.search.vectors import add_vectors, digest_of, empty_vectors, number_of

from .reporting import REPOSITORY, machine, parser_of, print_table, save_figures

TOP = 10


def random_units(count: int, width: int, seed: int) -> np.ndarray:
    embeds = np.random.default_rng(seed).standard_normal((count, width), dtype=np.float32)
    return embeds / np.linalg.norm(embeds, axis=1, keepdims=True)


def write_random_index(where: Path, count: int, width: int) -> np.ndarray:
    names = [f"{n:07d}.jpg" for n in range(count)]
    pictures = {name: Picture(0, 0, digest_of(name.encode())) for name in names}
    embeds, vectors = random_units(count, width, seed=0), empty_vectors(width)
    add_vectors(vectors, np.array([number_of(picture.digest) for picture in pictures.values()]), embeds)
    index = PictureIndex(folder=where / "pictures", model="", model_name="", pictures=pictures, vectors=vectors)
    save_index(index, where)
    return embeds


def measured(index: PictureIndex, embeds: np.ndarray, queries: torch.Tensor) -> dict:
    """Milliseconds a query, and for how many the names are, in their order, those of a stable argsort in float64."""
    names, seconds, same = list(index.pictures), [], 0
    for query in queries:
        began = time.perf_counter()
        hits = best(index, query, TOP)
        seconds.append(time.perf_counter() - began)
        scores = (embeds @ query.double().numpy()).astype(np.float32)
        same += [hit.name for hit in hits] == [names[n] for n in np.argsort(-scores, kind="stable")[:TOP]]
    median, most = np.quantile(seconds, [0.5, 0.95]) * 1000
    return {"median_ms": median, "ms_of_95_percent": most, "queries": len(queries), "as_brute_force": same}


def unpack(folder: Path, pictures: Path, most: int) -> list[str]:
    """Writes the pictures of all splits as files; returns the first caption of each."""
    captions = []
    for shard in sorted(folder.glob("*/*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                if len(captions) == most and is_picture_name(member.name):
                    return captions
                data = tar.extractfile(member).read()
                if is_picture_name(member.name):
                    path = pictures / shard.parent.name / member.name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(data)
                elif member.name.endswith(".txt"):
                    captions.append(data.decode().splitlines()[0])
    return captions


def start_index(options: argparse.Namespace, pictures: Path) -> subprocess.Popen:
    command = [sys.executable, "run_inference.py", "index", str(pictures), "--model", options.model, "--device", "cpu"]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, env=os.environ)


def update(options: argparse.Namespace, pictures: Path) -> tuple[list[int], float]:
    """([pictures, encoded, known by content, unchanged, gone, unreadable], seconds) of one call."""
    began = time.monotonic()
    with start_index(options, pictures) as run:
        said = run.stdout.read()
    if run.returncode:
        raise ValueError(f"the index ended with status {run.returncode}; see its message above.")
    return [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?= )", said)], time.monotonic() - began


def kill_midway(options: argparse.Namespace, pictures: Path, parts: int) -> float:
    """Starts a build and kills it as soon as so many parts are on disk; returns the seconds that it lived."""
    began = time.monotonic()
    with start_index(options, pictures) as run:
        while run.poll() is None and len([*pictures.glob(f"{INSIDE}/parts-*/part-*")]) < parts:
            time.sleep(0.05)
        run.send_signal(signal.SIGKILL)
    if run.returncode != -signal.SIGKILL:
        raise ValueError("the build ended before it could be killed; give more --pictures.")
    return time.monotonic() - began


def brute(index: PictureIndex) -> np.ndarray:
    numbers = np.array([number_of(picture.digest) for picture in index.pictures.values()])
    return index.vectors.reconstruct_batch(numbers).astype(np.float64)


def main(arguments: list[str]) -> None:
    parser = parser_of("search")
    parser.add_argument("--model", required=True, help="folder of a trained model")
    parser.add_argument("--data", type=Path, required=True, help="folder of wds_flickr8k")
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--pictures", type=int, default=8000)
    options = parser.parse_args(arguments)
    quiet_libraries()
    print(machine(), f"{torch.get_num_threads()} thread(s)", sep=", ")
    figures = {}
    with tempfile.TemporaryDirectory() as work:
        where = Path(work).resolve() / "random"
        embeds = write_random_index(where, options.vectors, options.width).astype(np.float64)
        began = time.perf_counter()
        index = open_index(where)
        figures["load_s"] = time.perf_counter() - began
        queries = torch.from_numpy(random_units(options.queries, options.width, seed=1))
        figures["random"] = measured(index, embeds, queries)
        size = sum(path.stat().st_size for path in where.iterdir()) / 1e6
        print(f"{options.vectors:,} x {options.width}: {size:.0f} MB, opened in {figures['load_s']:.2f} s")

        pictures = Path(work).resolve() / "pictures"
        captions = unpack(options.data / "wds_flickr8k", pictures, options.pictures)
        parts = max(1, options.pictures // 512 // 3)
        calls = [["built, then SIGKILL", f"{kill_midway(options, pictures, parts):.0f} s", *["-"] * 6]]

        def call(name):
            found, seconds = update(options, pictures)
            calls.append([name, f"{seconds:.0f} s", *(f"{number:,}" for number in found)])

        call("gone on with")
        call("called again")
        model, processor = load_model(options.model, "cpu")
        texts = encode_texts(model, processor.tokenizer, captions[: options.queries])
        index = open_index(pictures / INSIDE)
        figures["built"] = measured(index, brute(index), texts)
        for number, path in enumerate(sorted(pictures.rglob("*.jpg"))[:3]):
            path.rename(pictures / f"moved {number}.jpg")
        call("three moved")
        index = open_index(pictures / INSIDE)
        figures["moved"] = measured(index, brute(index), texts)
    figures["calls"] = calls
    print_table(["index", "took", "pictures", "encoded", "known", "unchanged", "gone", "unreadable"], calls)
    rows = [
        [
            name,
            f"{told['median_ms']:.1f}",
            f"{told['ms_of_95_percent']:.1f}",
            f"{told['as_brute_force']}",
            told["queries"],
        ]
        for name, told in figures.items()
        if isinstance(told, dict)
    ]
    print_table(["search of", "median ms", "95 % ms", "as brute force", "of"], [[*map(str, row)] for row in rows])
    save_figures(options.output / "search.json", figures)


if __name__ == "__main__":
    run_command(main)
