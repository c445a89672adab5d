"""Measure images/s of every stage from tar to device batch, for CIFAR-10 and a folder of JPEGs.

python -m benchmarks.input --cifar DATA/wds_vtab-cifar10 --jpeg DATA/flickr8k_fullsize

CIFAR-10 stays at 32 x 32; the JPEGs, put into a tar first, become 224 x 224. Stages of single images are timed with
one thread up to all cores, stages of a batch by one caller with that many threads of torch. `read_all`, which a run
uses, chooses its number of threads. For comparison: Pillow's `Image.open(...).load()` of the same bytes, which is the
limit of the decoder, and `ViTImageProcessorPil` image by image, as in tutorials. All take turns, `--rounds` times;
reported are medians of the rates, and of the ratios of times to the decoder in each round. The rate of the model is
measured in the same rounds (forward, backward and AdamW of a ViT 192 wide, 6 deep, patch 4, by hand), unless
`--model_rate` states it.
"""

import io
import os
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

import datasets
import torch
from PIL import Image
from transformers import ViTImageProcessorPil

from modeling_clipscratch.cli.command_line import quiet_libraries, run_command
from modeling_clipscratch.data.batches.captions import CaptionTable
from modeling_clipscratch.data.batches.map_batches import PairDataset, TextSide
from modeling_clipscratch.data.dataset import ImageReader
from modeling_clipscratch.data.images.augment import Augment
from modeling_clipscratch.data.images.preprocess import Preprocess
from modeling_clipscratch.data.load import load_data
from modeling_clipscratch.training.optimization.device import no_accelerator

from .reporting import machine, parser_of, print_table, save_figures
from .step_contestants import Regime, hand_step, now
from .train_step import REGIMES

DECODER, WHOLE, EXACT, TUTORIAL = "Pillow's decoder alone", "tar to pixels", "tar to pixels, exact", "as in tutorials"
READ_ALL, MEMORY, MODEL = "tar to pixels, read_all", "memory to device batch", "the model, forward and backward"
RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def tar_of(folder: Path, where: Path) -> Path:
    """Write the JPEGs of a folder as a dataset of one shard."""
    (where / "train").mkdir(parents=True)
    with tarfile.open(where / "train" / "0.tar", "w") as tar:
        for number, path in enumerate(sorted(folder.glob("*.jpg"))):
            for ending, content in (("jpg", path.read_bytes()), ("txt", b"a photo.")):
                member = tarfile.TarInfo(f"s{number:07d}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return where


def stages_of_images(rows: datasets.Dataset, image_processor) -> dict:
    """Return {stage: (function of one item, items)}."""
    fast, exact = Preprocess(image_processor, exact=False), Preprocess(image_processor)
    places, images = range(len(rows)), ImageReader(rows)
    encoded = [images(index, _as_it_is) for index in places]
    decoded = [fast.decode(data, name="") for data in encoded]
    return {
        DECODER: (lambda data: Image.open(io.BytesIO(data)).load(), encoded),
        "read bytes": (lambda index: images(index, _as_it_is), places),
        "decode": (lambda data: fast.decode(data, name=""), encoded),
        "resize and crop": (fast, decoded),
        WHOLE: (partial(fast.read, images), places),
        EXACT: (partial(exact.read, images), places),
        TUTORIAL: (lambda data: image_processor(_opened(data), return_tensors="pt"), encoded),
    }


def _as_it_is(data, *, name):
    return data


def _opened(data):
    return Image.open(io.BytesIO(data)).convert("RGB")


def stages_of_batches(rows: datasets.Dataset, image_processor, batch: int) -> dict:
    """Return {stage: (function of one batch, batches)}; pixels and text features are in memory."""
    device = torch.device("cpu") if no_accelerator() else torch.accelerator.current_accelerator()
    preprocess, captions = Preprocess(image_processor, exact=False), CaptionTable.of(rows)
    augment = Augment(mean=preprocess.mean, std=preprocess.std, random_shift=4, horizontal_flip=0.5)
    pixels, features = preprocess.read_all(rows)[0], torch.randn(len(captions.texts), 768)
    pairs = PairDataset(rows, captions, TextSide(seed=0, features=features), pixels=pixels)
    order = torch.randperm(len(rows)).repeat(-(-batch // len(rows))).tolist()
    places = [[(0, index) for index in order[at : at + batch]] for at in range(0, len(order) - batch + 1, batch)]
    gathered = [pairs.__getitems__(each) for each in places]
    there = [_copied(each, device) for each in gathered]

    def views(each):
        made = augment(each["images"], each["sample"], each["may_flip"])
        if device.type != "cpu":
            torch.accelerator.synchronize()
        return made

    return {
        "gather a batch": (pairs.__getitems__, places),
        "copy to the device": (lambda each: _copied(each, device), gathered),
        "augment and normalise": (views, there),
        MEMORY: (lambda each: views(_copied(pairs.__getitems__(each), device)), places),
    }


def _copied(batch, device):
    copied = {name: tensor.to(device) for name, tensor in batch.items()}
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return copied


def seconds(function, items, pool) -> float:
    """Return the seconds of all items, in turn or by the threads of a pool."""
    start = time.perf_counter()
    for _ in map(function, items) if pool is None else pool.map(function, items):
        pass
    return time.perf_counter() - start


def measure(
    rows: datasets.Dataset, image_processor, *, batch: int, rounds: int, threads: int, step=None
) -> dict[str, list[float]]:
    """Return {stage: images/s in each round}; `step` is a training step of `batch` images."""
    torch.set_num_threads(threads)
    singles, batches = stages_of_images(rows, image_processor), stages_of_batches(rows, image_processor, batch)
    own_way = Preprocess(image_processor, exact=False)
    found = {stage: [] for stage in [*singles, READ_ALL, *batches, *([MODEL] if step else [])]}
    with ThreadPoolExecutor(threads) as workers:
        for number in range(rounds + 1):
            made = {}
            torch.set_num_threads(1)  # the pool has the threads
            for stage, (function, items) in singles.items():
                made[stage] = len(items) / seconds(function, items, workers if threads > 1 else None)
            made[READ_ALL] = len(rows) / seconds(own_way.read_all, [rows], None)
            torch.set_num_threads(threads)
            for stage, (function, items) in batches.items():
                made[stage] = batch * len(items) / seconds(function, items, None)
            if step:
                made[MODEL] = 2 * batch / seconds(lambda _: (step(), now()), range(2), None)
            if number:  # the first round warms up
                for stage, rate in made.items():
                    found[stage].append(rate)
    return found


def show(found: dict[str, list[float]]) -> None:
    """Print the rates of one dataset and number of threads, and the times relative to the decoder."""
    lines = [[stage, f"{median(rates):,.0f}", f"{ratio(found, stage):.3f}"] for stage, rates in found.items()]
    print_table(["stage", "images/s", "time / decoder"], lines)
    for stage in (READ_ALL, MEMORY) if MODEL in found else ():
        print(f"{stage} is {ratio(found, MODEL, stage):.1f} times as fast as the model")


def ratio(found: dict, stage: str, other: str = DECODER) -> float:
    """Return the median over the rounds of the time of a stage relative to another stage."""
    return median(base / rate for base, rate in zip(found[other], found[stage], strict=True))


def main(arguments: list[str]) -> None:
    parser = parser_of("input")
    parser.add_argument("--cifar", type=Path, required=True, help="CIFAR-10 as tar shards")
    parser.add_argument("--jpeg", type=Path, required=True, help="folder of JPEGs of about 500 x 375")
    parser.add_argument("--size", type=int, default=224, help="pixels per side of the resized JPEGs")
    parser.add_argument("--resample", choices=RESAMPLE, default="bilinear", help="filter of the image processor")
    parser.add_argument("--images", type=int, default=4096, help="of CIFAR-10")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--model_rate", type=float, help="images/s of the model at 32 x 32")
    options = parser.parse_args(arguments)
    quiet_libraries()
    print(machine())
    figures = {"resample": options.resample, "sets": {}}
    with tempfile.TemporaryDirectory() as work:
        small = load_data(options.cifar, splits=["train"], validation_fraction=0)["train"]
        jpeg = tar_of(options.jpeg, Path(work) / "jpeg")
        large = load_data(jpeg, splits=["train"], validation_fraction=0)["train"]
        sets = [("32 x 32", 32, small.select(range(min(options.images, len(small)))))]
        sets += [(f"JPEG to {options.size} x {options.size}", options.size, large)]
        for (name, side, rows), threads in product(sets, range(1, (os.cpu_count() or 1) + 1)):
            square = {"height": side, "width": side}
            processor = ViTImageProcessorPil(size=square, resample=RESAMPLE[options.resample])
            step = None
            if side == 32 and options.model_rate is None:
                step = hand_step(Regime("", rows, [], "", **{**REGIMES["32"], "batch": options.batch}))
            found = measure(rows, processor, batch=options.batch, rounds=options.rounds, threads=threads, step=step)
            if side == 32 and options.model_rate is not None:
                found[MODEL] = [options.model_rate] * options.rounds
            figures["sets"][f"{name}, {threads}"] = found
            print(f"\n{name}, {len(rows):,} images, {threads} thread{'s' if threads > 1 else ''}")
            show(found)
    save_figures(options.output / "input.json", figures)


if __name__ == "__main__":
    run_command(main)
