"""Measure the cost of an evaluation beside the least it could be, on images with prompts and on random embeddings.

python -m benchmarks.evaluation --data DATA --text_tower MODELS/minilm-l6-distilbert

Zero-shot: the test images of CIFAR-10 with the 18 prompts, a ViT 192 wide, 6 deep, patch 4, from scratch, beside the
text tower. In turn: the vision tower alone on float pixels in memory, in batches of the same size; all of
`evaluate_dataset` (reading and decoding, both towers, the metrics); and, on the first `--slow` images, the same with
the prompts encoded again for each batch of 256. Wall clock and processor time; medians of the ratios.

Probes: k nearest neighbours and logistic regression, 50,000 training rows and 10,000 test rows.

Retrieval: 25,000 captions of 5,000 images, 512 numbers each, each way in a process of its own (Linux): time, and the
peak resident memory less that before. "In blocks" is `retrieval_outcomes`; "in float32" the same with float32 products,
which would settle ties by chance; "full matrix" keeps a float32 matrix and ranks it. Then more captions than a matrix
of which would fit.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch
from transformers import ViTConfig, ViTImageProcessorPil

from modeling_clipscratch import ClipScratchModel
from modeling_clipscratch.cli.command_line import run_command
from modeling_clipscratch.data.dataset import class_names, labels_of
from modeling_clipscratch.data.images.preprocess import Preprocess, normalize
from modeling_clipscratch.data.load import load_data
from modeling_clipscratch.evaluation.encode import CPU_BATCH, encode_images, encode_texts, reading
from modeling_clipscratch.evaluation.evaluate_dataset import encode_classes, evaluate_dataset
from modeling_clipscratch.evaluation.metrics import ranking
from modeling_clipscratch.evaluation.metrics.outcomes import RECALLS
from modeling_clipscratch.evaluation.metrics.ranking import ranks, zero_shot_outcomes

from .memory import memory_of_process
from .reporting import REPOSITORY, machine, parser_of, print_table, save_figures

BATCH = 256
WAYS = ("in blocks", "in float32", "full matrix")


def seconds(work) -> tuple[float, float]:
    """Wall clock and processor time."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def zero_shot(options: argparse.Namespace) -> dict:
    torch.manual_seed(0)
    vision = ViTConfig(
        hidden_size=192, num_hidden_layers=6, num_attention_heads=3, intermediate_size=768, image_size=32, patch_size=4
    )
    image_processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    model, processor = ClipScratchModel.from_towers(options.text_tower, vision, image_processor=image_processor)
    model.eval()
    data = load_data(options.data / "wds_vtab-cifar10", splits=["test"])
    rows, templates = data["test"], data.templates
    rows = rows.select(range(min(options.limit, len(rows))))
    preprocess = Preprocess(image_processor)
    pixels = torch.from_numpy(preprocess.read_all(rows)[0])
    prepared = normalize(pixels, preprocess.mean, preprocess.std)

    def forward():
        with reading(model):
            for pixel_values in prepared.split(CPU_BATCH):
                model.get_image_features(pixel_values=pixel_values)

    def ours():
        evaluate_dataset(model, processor, rows, templates=templates, batch_size=BATCH)

    slow = rows.select(range(min(options.slow, len(rows))))

    def prompts_each_batch():
        for start in range(0, len(slow), BATCH):
            batch = slow.select(range(start, min(start + BATCH, len(slow))))
            images = encode_images(model, preprocess, batch, batch_size=BATCH)[0]
            encode = partial(encode_texts, model, processor.tokenizer)
            zero_shot_outcomes(
                images, encode_classes(encode, class_names(rows), templates), torch.as_tensor(labels_of(batch)), 0.0
            )

    prompts_each_batch()  # libraries that load themselves at their first use
    found = {"forward": [], "ours": [], "prompts each batch": []}
    for _ in range(options.repeats):
        found["forward"].append(seconds(forward))
        found["ours"].append(seconds(ours))
        found["prompts each batch"].append([len(rows) / len(slow) * spent for spent in seconds(prompts_each_batch)])
    print(f"\nzero-shot: {len(rows):,} images, {len(class_names(rows)) * len(templates)} prompts")
    lines = []
    for way, runs in found.items():
        ratios = [
            statistics.median(run[clock] / alone[clock] for run, alone in zip(runs, found["forward"], strict=True))
            for clock in (0, 1)
        ]
        wall, processors = (statistics.median(run[clock] for run in runs) for clock in (0, 1))
        lines.append([way, f"{wall:.1f} s", f"{ratios[0]:.3f}", f"{processors:.1f} s", f"{ratios[1]:.3f}"])
    print_table(["", "wall clock", "to forward", "processor time", "to forward"], lines)
    return {"images": len(rows), "seconds (wall, processor)": found}


def cell(way: str, caption_count: int, image_count: int) -> dict:
    """In a process of its own: bytes beyond the embeddings, and seconds."""
    generator = torch.Generator().manual_seed(0)
    images, texts = (
        torch.nn.functional.normalize(torch.randn(count, 512, generator=generator))
        for count in (image_count, caption_count)
    )
    owners = torch.arange(caption_count) * image_count // caption_count
    if way == "in float32":
        ranking.in_float64 = lambda name, embeds: embeds
    work = {"full matrix": full_matrix}.get(way, ranking.retrieval_outcomes)
    work(images[:64], texts[:64], torch.arange(64))  # libraries that load themselves at their first use
    Path("/proc/self/clear_refs").write_text("5")  # the highest size is counted from here
    before = memory_of_process("VmRSS")
    spent = seconds(lambda: work(images, texts, owners))
    return {"bytes": memory_of_process("VmHWM") - before, "wall": spent[0], "processor": spent[1]}


def full_matrix(images, texts, owners):
    scores = texts @ images.t()
    own = owners[:, None] == torch.arange(len(images))
    found = {"text_to_image": ranks(scores, owners), "image_to_text": ranking.best_own_ranks(scores.t(), own.t())}
    return {(way, k): float((rank <= k).double().mean()) for way, rank in found.items() for k in RECALLS}


def fresh_cell(*asked) -> dict:
    command = [sys.executable, "-m", "benchmarks.evaluation", "--cell", *map(str, asked)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def retrievals(options: argparse.Namespace) -> list[dict]:
    asked = [(way, captions, captions // 5) for captions in options.captions for way in WAYS]
    # The size of the larger matrix is known; only the blocks are measured.
    asked = [cell for cell in asked if cell[0] == "in blocks" or cell[1] == options.captions[0]]
    found = [{"way": way, "captions": m, "images": n, **fresh_cell(way, m, n)} for way, m, n in asked]
    print("\nretrieval, both directions")
    lines = [
        [
            f"{run['captions']:,} x {run['images']:,}, {run['way']}",
            f"{run['wall']:.1f} s",
            f"{run['processor']:.1f} s",
            f"{run['bytes'] / 1e6:,.0f} MB",
            f"{run['captions'] * run['images'] * 4 / 1e6:,.0f} MB",
        ]
        for run in found
    ]
    print_table(["", "wall clock", "processor time", "peak", "a float32 matrix"], lines)
    return found


def main(arguments: list[str]) -> None:
    parser = parser_of("evaluation")
    parser.add_argument(
        "--data", type=Path, help="folder with wds_vtab-cifar10; without it the zero-shot part is skipped"
    )
    parser.add_argument("--text_tower", type=Path, default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--limit", type=int, default=10_000, help="images")
    parser.add_argument("--slow", type=int, default=512, help="images with the prompts encoded for each batch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--captions", type=int, nargs="+", default=[25_000, 100_000], help="for retrieval")
    parser.add_argument("--cell", nargs=3, metavar=("WAY", "CAPTIONS", "IMAGES"), help="one measurement, as JSON")
    options = parser.parse_args(arguments)
    if options.cell:
        print(json.dumps(cell(options.cell[0], int(options.cell[1]), int(options.cell[2]))))
        return
    print(machine())
    figures = {"zero_shot": zero_shot(options)} if options.data else {}
    figures |= {"retrieval": retrievals(options)}
    save_figures(options.output / "evaluation.json", figures)


if __name__ == "__main__":
    run_command(main)
