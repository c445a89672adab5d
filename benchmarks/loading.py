"""Time to the first step and peak memory of a run, for a large table, a folder of many files and CIFAR-10's tars.

python -m benchmarks.loading --cifar DATA/wds_vtab-cifar10 --trees ../before .

Each run is a process, `run_train.py` with the smallest towers and one step of 64 pairs, in each tree (a checkout of
this repository) in turn; medians of `--rounds`. The tables and the folder are temporary.

table     one parquet file of 100,000 images of 8x8 pixels with a caption each
captions  a CSV of 100,000 rows, five captions each of 20,000 image files, and the folder beside it
folder    20,000 image files of 8x8 pixels in ten sub-folders, one per class
cifar     CIFAR-10's tars, 45,000 images to train on
"""

import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import datasets
import numpy as np
from PIL import Image

from modeling_clipscratch.cli.command_line import run_command

from .reporting import machine, parser_of, print_table, save_figures

TINY = [
    "--text_tower", "distilbert", "--text_hidden_size", "16", "--text_num_layers", "1", "--text_num_heads", "2",
    "--vision_tower", "vit", "--vision_hidden_size", "16", "--vision_num_layers", "1", "--vision_num_heads", "2",
    "--image_size", "8", "--patch_size", "4", "--projection_dim", "16", "--freeze_text", "false", "--max_steps", "1",
    "--global_batch_size", "64", "--eval_strategy", "no", "--save_strategy", "no", "--test_split", "none",
    "--validation_fraction", "0.1", "--disable_tqdm", "true", "--overwrite_output_dir",
]  # fmt: skip


def png(number: int) -> bytes:
    """Return a random image of 8x8 pixels."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_table(place: Path, rows: int) -> Path:
    """Write a parquet file with an image and a caption per row."""
    columns = {
        "image": [{"bytes": png(row), "path": None} for row in range(rows)],
        "caption": [f"image number {row} of many" for row in range(rows)],
    }
    features = datasets.Features({"image": datasets.Image(decode=False), "caption": datasets.Value("string")})
    datasets.Dataset.from_dict(columns, features=features).to_parquet(place / "train.parquet")
    return place


def write_folder(place: Path, rows: int) -> Path:
    """Write image files into ten sub-folders."""
    for row in range(rows):
        path = place / f"class {row % 10}" / f"{row:06d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(row))
    return place


def write_captions(place: Path, folder: Path, rows: int) -> Path:
    """Write a CSV with five captions per image of the folder."""
    names = sorted(path.relative_to(folder) for path in folder.glob("*/*.png"))
    lines = [f"{folder / name},caption {n} of {name.stem}" for name in names for n in range(rows // len(names))]
    (place / "captions.csv").write_text("\n".join(["image,caption", *lines]) + "\n")
    return place / "captions.csv"


def run(tree: Path, dataset: Path, output: Path, cache: Path) -> tuple[float, float]:
    """Return the seconds and the peak memory in MB of a run of one step; the cache of `datasets` stays for the next."""
    command = [sys.executable, "run_train.py", *TINY, "--dataset", str(dataset), "--output_dir", str(output)]
    began = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(tree), "HF_HOME": str(cache)}
    process = subprocess.Popen(command, cwd=tree, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    errors = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise ValueError(f"{tree}: {dataset} failed: {errors[-600:]}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def main(arguments: list[str]) -> None:
    parser = parser_of("loading")
    parser.add_argument("--trees", nargs="+", type=Path, default=[Path()], help="checkouts to run, the first one first")
    parser.add_argument("--cifar", type=Path, help="CIFAR-10's tars; without them that part is left out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the tables; a fifth as many files")
    options = parser.parse_args(arguments)
    print(machine())
    figures = {}
    with tempfile.TemporaryDirectory() as made:
        places = {name: Path(made, name) for name in ("table", "folder", "captions", "output")}
        for place in places.values():
            place.mkdir()
        write_folder(places["folder"], options.rows // 5)
        write_table(places["table"], options.rows)
        sets = {name: places[name] for name in ("table", "folder")}
        sets["captions"] = write_captions(places["captions"], places["folder"], options.rows)
        if options.cifar:
            sets["cifar"] = options.cifar.resolve()
        for name, dataset in sets.items():
            runs_of = {str(tree): [] for tree in options.trees}
            for tree in [tree for _ in range(options.rounds) for tree in options.trees]:
                cache = Path(made, "cache", str(options.trees.index(tree)))
                runs_of[str(tree)].append(run(tree.resolve(), dataset, places["output"], cache))
            figures[name] = {
                tree: {"seconds": median(s for s, _ in runs), "first": runs[0][0], "MB": median(m for _, m in runs)}
                for tree, runs in runs_of.items()
            }
    print_table(
        ["dataset", "tree", "seconds, first run", "seconds, median", "peak MB"],
        [
            [name, tree, f"{one['first']:.1f}", f"{one['seconds']:.1f}", f"{one['MB']:.0f}"]
            for name, of in figures.items()
            for tree, one in of.items()
        ],
    )
    save_figures(options.output / "loading.json", figures)


if __name__ == "__main__":
    run_command(main)
