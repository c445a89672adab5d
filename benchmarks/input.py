"""CIFAR-10's tars and a folder of JPEGs go in; pictures a second of every stage from tar to device batch come out.

python -m benchmarks.input --cifar DATA/wds_vtab-cifar10 --jpeg DATA/flickr8k_fullsize

CIFAR-10 stays at 32 x 32, the JPEGs (which are put into a tar first) become 224 x 224. Stages of single pictures are
timed with one thread up to all cores; those of a batch by one caller with as many threads of torch's; `read_all`, a
run's own way, finds out how many threads are worth it. Beside them stand Pillow's `Image.open(...).load()` of the same
bytes, the decoder's own limit, and `ViTImageProcessorPil` picture by picture, the tutorials' way. All take turns,
`--rounds` times: medians of their rates, and of each round's ratios of times to the decoder. What the model takes is
measured in the same rounds: forward, backward and AdamW of a ViT 192 wide, 6 deep, patch 4, by hand
(`step_contestants.py`), unless `--model_rate` states it.
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
from modeling_clipscratch.data.images import decode as pictures
from modeling_clipscratch.data.images.augment import Augment
from modeling_clipscratch.data.images.preprocess import Preprocess
from modeling_clipscratch.data.load import load_data
from modeling_clipscratch.training.optimization.device import no_accelerator

from .reporting import machine, parser_of, print_table, save_figures
from .step_contestants import Regime, hand_step, now
from .train_step import REGIMES

DECODER, WHOLE, EXACT, TUTORIAL = "Pillow's decoder alone", "tar to pixels", "tar to pixels, exact", "tutorials' way"
READ_ALL, MEMORY, MODEL = "tar to pixels, read_all", "memory to device batch", "the model, forward and backward"
RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def tar_of(folder: Path, where: Path) -> Path:
    """The JPEGs of a folder as a data set of one shard."""
    (where / "train").mkdir(parents=True)
    with tarfile.open(where / "train" / "0.tar", "w") as tar:
        for number, path in enumerate(sorted(folder.glob("*.jpg"))):
            for ending, content in (("jpg", path.read_bytes()), ("txt", b"a photo.")):
                member = tarfile.TarInfo(f"s{number:07d}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return where


def stages_of_pictures(rows: datasets.Dataset, image_processor) -> dict:
    """Stage -> (function of one item, the items)."""
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
    """Stage -> (function of one batch, the batches); pixels and text states are in memory."""
    device = torch.device("cpu") if no_accelerator() else torch.accelerator.current_accelerator()
    preprocess, captions = Preprocess(image_processor, exact=False), CaptionTable.of(rows)
    augment = Augment(mean=preprocess.mean, std=preprocess.std, random_shift=4, horizontal_flip=0.5)
    pixels, states = preprocess.read_all(rows)[0], torch.randn(len(captions.texts), 768)
    pairs = PairDataset(rows, captions, TextSide(seed=0, features=states), pixels=pixels)
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
    """Of all items, in turn or by the threads of a pool."""
    start = time.perf_counter()
    for _ in map(function, items) if pool is None else pool.map(function, items):
        pass
    return time.perf_counter() - start


def measure(
    rows: datasets.Dataset, image_processor, *, batch: int, rounds: int, threads: int, step=None
) -> dict[str, list[float]]:
    """Stage -> pictures a second in each round; `step`: a training step of `batch` pictures, the model's."""
    torch.set_num_threads(threads)
    singles, batches = stages_of_pictures(rows, image_processor), stages_of_batches(rows, image_processor, batch)
    own_way = Preprocess(image_processor, exact=False)
    found = {stage: [] for stage in [*singles, READ_ALL, *batches, *([MODEL] if step else [])]}
    with ThreadPoolExecutor(threads) as workers:
        for number in range(rounds + 1):
            made = {}
            torch.set_num_threads(1)  # the threads are the pool's
            for stage, (function, items) in singles.items():
                made[stage] = len(items) / seconds(function, items, workers if threads > 1 else None)
            made[READ_ALL] = len(rows) / seconds(own_way.read_all, [rows], None)
            torch.set_num_threads(threads)
            for stage, (function, items) in batches.items():
                made[stage] = batch * len(items) / seconds(function, items, None)
            if step:
                made[MODEL] = 2 * batch / seconds(lambda _: (step(), now()), range(2), None)
            if number:  # the first brings files and code into memory
                for stage, rate in made.items():
                    found[stage].append(rate)
    return found


def show(found: dict[str, list[float]]) -> None:
    """The table of one set and number of threads: rates, and a picture's time over the decoder's."""
    lines = [[stage, f"{median(rates):,.0f}", f"{ratio(found, stage):.3f}"] for stage, rates in found.items()]
    print_table(["stage", "pictures a second", "time / decoder's"], lines)
    for stage in (READ_ALL, MEMORY) if MODEL in found else ():
        print(f"{stage} feeds {ratio(found, MODEL, stage):.1f} times what the model takes")


def ratio(found: dict, stage: str, other: str = DECODER) -> float:
    """Median over the rounds of how much longer a picture takes than in the other stage."""
    return median(base / rate for base, rate in zip(found[other], found[stage], strict=True))


def main(arguments: list[str]) -> None:
    parser = parser_of("input")
    parser.add_argument("--cifar", type=Path, required=True, help="CIFAR-10 as tar shards")
    parser.add_argument("--jpeg", type=Path, required=True, help="folder of JPEGs of about 500 x 375")
    parser.add_argument("--size", type=int, default=224, help="pixels a side that the JPEGs become")
    parser.add_argument("--resample", choices=RESAMPLE, default="bilinear", help="filter of the image processor")
    parser.add_argument("--pictures", type=int, default=4096, help="of CIFAR-10")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--model_rate", type=float, help="pictures a second that the model takes at 32 x 32")
    options = parser.parse_args(arguments)
    quiet_libraries()
    decoder = "Pillow" if pictures.simplejpeg is None else "simplejpeg"
    print(f"{machine()}; JPEGs to train on are decoded by {decoder}")
    figures = {"decoder": decoder, "resample": options.resample, "sets": {}}
    with tempfile.TemporaryDirectory() as work:
        small = load_data(options.cifar, splits=["train"], validation_fraction=0)["train"]
        jpeg = tar_of(options.jpeg, Path(work) / "jpeg")
        large = load_data(jpeg, splits=["train"], validation_fraction=0)["train"]
        sets = [("32 x 32", 32, small.select(range(min(options.pictures, len(small)))))]
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
            print(f"\n{name}, {len(rows):,} pictures, {threads} thread{'s' if threads > 1 else ''}")
            show(found)
    save_figures(options.output / "input.json", figures)


if __name__ == "__main__":
    run_command(main)
