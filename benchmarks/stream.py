"""Measure the memory of a streamed run, and count how often each row comes in an epoch.

python -m benchmarks.stream --data DIR

DIR holds `wds_vtab-cifar10` and `wds_flickr8k` in CLIP_benchmark's layout. Memory is that of the run and its workers,
with shared pages counted once (PSS; USS if the system has no PSS), beyond what the run takes before it opens its data.
"""

import argparse
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
import torch
from PIL import Image
from transformers import ViTImageProcessorPil

from modeling_clipscratch.cli.command_line import quiet_libraries, run_command
from modeling_clipscratch.data.batches.captions import CaptionTable
from modeling_clipscratch.data.batches.map_batches import TextSide
from modeling_clipscratch.data.batches.stream_batches import StreamedPairs, StreamedRows
from modeling_clipscratch.data.images.decode import is_image_name
from modeling_clipscratch.data.images.preprocess import Preprocess
from modeling_clipscratch.data.images.randomness import key_ids, sample_ids
from modeling_clipscratch.data.load import load_data
from modeling_clipscratch.evaluation.plots.figures import BLUE, VERMILLION, new_figure, save_figure
from modeling_clipscratch.training.recipe.recipe import parse_recipe
from modeling_clipscratch.training.run import train
from modeling_clipscratch.training.towers.word_tokenizer import word_tokenizer
from modeling_clipscratch.training.trainer import ClipScratchTrainer

from .reporting import REPOSITORY, machine, parser_of, print_table, save_figures, tidy

SETS = {"CIFAR-10": "wds_vtab-cifar10", "Flickr8k": "wds_flickr8k"}
RECIPE = {
    "streaming": True, "text_tower": "distilbert", "text_hidden_size": 64, "text_num_layers": 1, "text_num_heads": 2,
    "freeze_text": False, "vision_tower": "vit", "vision_hidden_size": 64, "vision_num_layers": 2,
    "vision_num_heads": 2, "image_size": 32, "patch_size": 8, "projection_dim": 64, "global_batch_size": 128,
    "encode_chunk_size": 128, "eval_strategy": "no", "save_strategy": "no", "test_split": "none", "max_length": 32,
    "disable_tqdm": True, "logging_steps": 10,
}  # fmt: skip
READY, TRAINED = "about to open the data", "trained"
EVERY = 0.25  # seconds between two readings of the memory


def decoded_bytes(folder: Path) -> tuple[int, int]:
    """Return (images, bytes) of the train split if all of it were decoded at full size."""
    count = total = 0
    for shard in sorted(folder.glob("train/*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                if is_image_name(member.name):
                    width, height = Image.open(tar.extractfile(member)).size  # reads the header only
                    count, total = count + 1, total + 3 * width * height
    return count, total


def memory(process: psutil.Process) -> tuple[int, int]:
    """Return (bytes of a process and its children, number of children)."""
    children, total = process.children(recursive=True), 0
    for one in [process, *children]:
        try:
            info = one.memory_full_info()
            total += info.pss if "pss" in info._fields else info.uss
        except psutil.NoSuchProcess:
            continue  # the worker has just ended
    return total, len(children)


def watch(folder: Path, steps: int, workers: int, rows: int, work: Path) -> list[tuple[float, float, bool]]:
    """Train in a process of its own; return, at each reading, the seconds since it opened its data, the MB beyond what
    it took before, and whether it is training."""
    arguments = [
        sys.executable,
        "-m",
        "benchmarks.stream",
        "--data",
        str(folder),
        "--train",
        str(steps),
        "--workers",
        str(workers),
    ]
    arguments += ["--shuffle_rows", str(rows), "--output", str(work)]
    readings = []
    with subprocess.Popen(arguments, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as run:
        process = psutil.Process(run.pid)
        while READY not in (line := run.stdout.readline()):
            if not line:
                raise ValueError(f"the run on {folder} ended before it opened its data; its message is above.")
        began, (before, _) = time.monotonic(), memory(process)
        while run.poll() is None:
            try:
                taken, living = memory(process)
            except psutil.Error:
                break
            training = living >= workers and not (work / TRAINED).exists()
            readings.append((time.monotonic() - began, (taken - before) / 1e6, training))
            time.sleep(EVERY)
    if run.returncode:
        raise ValueError(f"the run on {folder} ended with status {run.returncode}; its message is above.")
    return readings[:-1]  # the run may have been ending at the last reading


def train_here(folder: Path, steps: int, workers: int, rows: int, work: Path) -> None:
    """Make the run that is watched; its tokenizer knows the words of the test split."""
    quiet_libraries()
    words = CaptionTable.of(load_data(folder, splits=["test"])["test"]).texts
    word_tokenizer(words).save_pretrained(work / "tokenizer")
    recipe = {**RECIPE, "dataset": str(folder), "output_dir": str(work / "run"), "tokenizer": str(work / "tokenizer")}
    recipe |= {"max_steps": steps, "dataloader_num_workers": workers, "stream_shuffle_rows": rows}
    parsed = parse_recipe([word for name, value in recipe.items() for word in (f"--{name}", str(value))])
    print(READY, flush=True)
    time.sleep(1)  # for the first reading
    own = ClipScratchTrainer.train_from

    def marked(trainer, *args, **kwargs):
        own(trainer, *args, **kwargs)
        (work / TRAINED).touch()

    ClipScratchTrainer.train_from = marked
    train(*parsed)


def times_seen(folder: Path, *, processes: int = 2, workers: int = 2) -> Counter:
    """Count how often rows come in the first epoch, over all processes and workers: {times: rows}."""
    keys = []
    for shard in sorted(folder.glob("train/*.tar")):
        with tarfile.open(shard) as tar:
            keys += [f"{shard.stem}/{name.split('.')[0]}" for name in tar.getnames() if is_image_name(name)]
    data = load_data(folder, splits=["train"], streaming=True)
    rows, captions = StreamedRows(data["train"]), None
    if rows.class_names is None:
        tokenizer = word_tokenizer(["a"])
        tokenizer.model_max_length = 32
        texts = TextSide(seed=0, tokenizer=tokenizer)
    else:
        captions = CaptionTable.of_classes(rows.class_names, data.templates)
        texts = TextSide(seed=0, features=torch.zeros(len(captions.texts), 1))
    preprocess = Preprocess(ViTImageProcessorPil(size={"height": 32, "width": 32}))
    seen = Counter()
    for process in range(processes):
        pairs = StreamedPairs(
            rows, texts, captions, batch_size=64, seed=0, preprocess=preprocess, process=process, processes=processes,
            workers=workers,
        )  # fmt: skip
        beyond = set()
        for batch in torch.utils.data.DataLoader(pairs, batch_size=None, num_workers=workers):
            seen.update(batch["sample"].tolist())
            if batch["stream"]["state"]["epoch"] > 0:
                beyond.add(batch["stream"]["state"]["worker"])
            if len(beyond) == workers:
                break
    # A sample's id depends on key and epoch, so samples of the second epoch, which some readers began, do not count.
    return Counter(seen[sample] for sample in sample_ids(key_ids(keys), seed=0, epoch=0).tolist())


def draw(curves: dict, decoded: dict, path: Path) -> None:
    """Draw one panel per dataset: {name: [(seconds, MB, whether it trains), ...]} and {name: MB if decoded}."""
    figure = new_figure(9.6, 3.6)
    for place, (name, readings) in enumerate(curves.items(), start=1):
        seconds, megabytes, training = zip(*readings, strict=True)
        axes = figure.add_subplot(1, len(curves), place)
        axes.plot(seconds, megabytes, color=BLUE, linewidth=1.5, label="streamed run and its workers")
        last = max(second for second, is_training in zip(seconds, training, strict=True) if is_training)
        axes.axvline(last, color="0.4", linestyle=":", linewidth=1.5, label="end of training; validation follows")
        axes.axhline(decoded[name], color=VERMILLION, linestyle="--", linewidth=1.5, label="the decoded dataset alone")
        tidy(axes, name, "seconds since the data were opened", "memory, MB")
        axes.set_xlim(0, None)
        axes.set_ylim(0, 1.35 * max(*megabytes, decoded[name]))
        axes.legend(loc="upper left", frameon=False, fontsize="small")
    save_figure(figure, path)


def main(arguments: list[str]) -> None:
    parser = parser_of("stream")
    parser.add_argument("--data", type=Path, required=True, help="folder of the two datasets")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--shuffle_rows", type=int, default=2048)
    parser.add_argument("--train", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.train:
        return train_here(options.data, options.train, options.workers, options.shuffle_rows, options.output)
    print(machine())
    curves, decoded, table = {}, {}, []
    for name, folder in SETS.items():
        folder = options.data / folder
        count, size = decoded_bytes(folder)
        with tempfile.TemporaryDirectory() as work:
            readings = watch(folder, options.steps, options.workers, options.shuffle_rows, Path(work))
        times = times_seen(folder)
        curves[name], decoded[name] = readings, size / 1e6
        training = [taken for _, taken, is_training in readings if is_training]
        half = training[len(training) // 2 : -2]  # without the last readings, when workers were ending
        once = f"{times[1]:,} of {count:,}"
        seen = options.steps * RECIPE["global_batch_size"]
        figures = (
            f"{seen:,}",
            f"{readings[-1][0]:.0f}",
            f"{max(training):.0f}",
            f"{max(half) - min(half):.0f}",
        )
        table.append([name, *figures, f"{decoded[name]:.0f}", once])
        assert times == {1: count}, times
    head = [
        "dataset",
        "training images",
        "seconds",
        "peak MB in training",
        "range in the 2nd half, MB",
        "decoded dataset, MB",
    ]
    print_table([*head, "keys once per epoch, 2 x 2 readers"], table)
    save_figures(options.output / "stream.json", {"seconds_and_megabytes": curves, "decoded_megabytes": decoded})
    draw(curves, decoded, options.output / "stream.png")


if __name__ == "__main__":
    run_command(main)
