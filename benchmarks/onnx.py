"""Measure accuracy, size and speed of the ONNX files of a trained folder against PyTorch.

python -m benchmarks.onnx --model runs/flickr8k --data wds_flickr8k --split validation
python -m benchmarks.onnx --model runs/cifar10 --data wds_vtab-cifar10 --name onnx_cifar10
"""

import os
import tempfile
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from benchmarks.reporting import machine, parser_of, print_table, save_figures
from modeling_clipscratch.cli.command_line import quiet_libraries, run_command
from modeling_clipscratch.data.load import load_data
from modeling_clipscratch.evaluation.evaluate_dataset import evaluate_dataset
from modeling_clipscratch.evaluation.load_model import load_model
from modeling_clipscratch.evaluation.metrics.intervals import paired_differences
from modeling_clipscratch.evaluation.metrics.ranking import cosines
from modeling_clipscratch.sharing.export.export_onnx import PRECISIONS, SIDES, Tower, export_onnx, open_session

TOP = 10
TOKENS = 16
BATCHES = (1, 32)
THREADS = (1, 2)
METRICS = [f"{way}_recall@{top}" for way in ("image_to_text", "text_to_image") for top in (1, 5, 10)] + ["top1"]


class OnnxModel(nn.Module):
    """Two sessions with the interface of their model, for the functions of the evaluation."""

    def __init__(self, model, files: dict[str, Path]):
        super().__init__()
        self.config, self.device, self.logit_scale = model.config, torch.device("cpu"), model.logit_scale
        self.vision_model = nn.Linear(1, 1)  # its dtype becomes that of the pixels
        self.sessions = {side: open_session(path) for side, path in files.items()}

    def get_image_features(self, pixel_values):
        return self._run("vision", pixel_values=pixel_values)

    def get_text_features(self, input_ids, attention_mask):
        return self._run("text", input_ids=input_ids, attention_mask=attention_mask)

    def _run(self, side, **inputs):
        (embeds,) = self.sessions[side].run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
        return SimpleNamespace(pooler_output=torch.from_numpy(embeds))


def largest_distance(first, second) -> dict[str, float]:
    pairs = {"vision": (first.image_embeds, second.image_embeds), "text": (first.text_embeds, second.text_embeds)}
    return {side: float((one - other).norm(dim=-1).max()) for side, (one, other) in pairs.items()}


def same_lists(first, second) -> dict[str, float]:
    """Return the share of the queries whose ten nearest are the same, in the same order."""

    def lists(result):
        scores = cosines(result.image_embeds, result.text_embeds)
        return [way.argsort(dim=-1, descending=True, stable=True)[:, :TOP] for way in (scores, scores.t())]

    ways = zip(("image_to_text", "text_to_image"), lists(first), lists(second), strict=True)
    return {way: float((one == other).all(1).double().mean()) for way, one, other in ways}


def inputs_of(model, side: str, batch: int, image_size: list[int]) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    if side == "vision":
        return {"pixel_values": draw.standard_normal((batch, 3, *image_size), dtype=np.float32)}
    ids = draw.integers(0, model.config.text_config.vocab_size, (batch, TOKENS))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def speeds(model, folder: Path, exported: dict, rounds: int) -> list[dict]:
    """Return the median milliseconds of a batch; the runs take turns."""
    lines = []
    for threads in THREADS:
        torch.set_num_threads(threads)
        for side in SIDES:
            runs = {}
            for attention in ("sdpa", "eager"):
                runs[f"PyTorch {attention}"] = _torch_run(model, side, attention)
            for precision, files in exported["files"].items():
                session = open_session(folder / files[side], threads=threads)
                runs[f"ONNX {precision}"] = lambda inputs, session=session: session.run(None, inputs)
            for batch in BATCHES:
                inputs = inputs_of(model, side, batch, exported["image_size"])
                taken = {name: [] for name in runs}
                for turn in range(rounds + 1):  # the first is not counted
                    for name, run in runs.items():
                        began = time.perf_counter()
                        run(inputs)
                        if turn:
                            taken[name].append(1000 * (time.perf_counter() - began))
                medians = {name: median(times) for name, times in taken.items()}
                lines.append({"threads": threads, "side": side, "batch": batch, **medians})
    return lines


def _torch_run(model, side, attention):
    reference = Tower(model)

    @torch.inference_mode()
    def run(inputs):
        model.set_attn_implementation(attention)
        return reference(**{name: torch.from_numpy(array) for name, array in inputs.items()})

    return run


def main(arguments: list[str]) -> None:
    parser = parser_of("onnx")
    parser.add_argument("--model", required=True, help="folder of a trained model")
    parser.add_argument("--data", required=True, help="data set, as clipscratch eval takes it")
    parser.add_argument("--split", default="test")
    parser.add_argument("--rounds", type=int, default=15, help="of the timing; 0 for none")
    parser.add_argument("--name", default="onnx", help="of the JSON")
    options = parser.parse_args(arguments)
    quiet_libraries()
    print(f"{machine()}, load {os.getloadavg()[0]:.2f}")
    data = load_data(options.data, splits=[options.split])
    (dataset,) = data.values()
    templates = data.templates
    model, processor = load_model(options.model, "cpu")
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "onnx"
        exported = export_onnx(options.model, folder, precisions=PRECISIONS)
        plain = evaluate_dataset(model, processor, dataset, templates=templates)
        names = [name for name in METRICS if name in plain.metrics]
        figures = {"pytorch": {name: plain.metrics[name] for name in names}}
        table = [["PyTorch", "-", "-", "-", "-", "-", *(f"{100 * plain.metrics[name]:.2f}" for name in names)]]
        compared = []
        for precision, files in exported["files"].items():
            paths = {side: folder / name for side, name in files.items()}
            result = evaluate_dataset(OnnxModel(model, paths), processor, dataset, templates=templates)
            apart, same = largest_distance(plain, result), same_lists(plain, result)
            sizes = {side: path.stat().st_size / 1e6 for side, path in paths.items()}
            differences = paired_differences(plain.outcomes, result.outcomes)
            figures[precision] = {"distance": apart, "same_lists": same, "megabytes": sizes}
            figures[precision] |= {name: vars(differences[name]) for name in names}
            shares = [f"{100 * share:.1f} %" for share in same.values()] if templates is None else ["-", "-"]
            numbers = [f"{sizes['text']:.1f} + {sizes['vision']:.1f}", f"{apart['text']:.1e}", f"{apart['vision']:.1e}"]
            table.append([f"ONNX {precision}", *numbers, *shares, *(f"{100 * result.metrics[n]:.2f}" for n in names)])
            for name in names:
                difference = differences[name]
                ends = f"{100 * difference.low:+.2f} to {100 * difference.high:+.2f}"
                compared.append(
                    [f"{precision} {name}", f"{100 * difference.value:+.2f}", ends, f"{difference.p_value:.3f}"]
                )
        head = ["", "MB text + vision", "text apart", "vision apart", "same top 10 i->t", "t->i", *names]
        print_table(head, table)
        print_table(["minus PyTorch, points", "difference", "95 % interval", "p"], compared)
        if options.rounds:
            figures["milliseconds"] = speeds(model, folder, exported, options.rounds)
            columns = list(figures["milliseconds"][0])
            lines = [[f"{line[n]:.1f}" if "P" in n or "O" in n else str(line[n]) for n in columns]
                     for line in figures["milliseconds"]]  # fmt: skip
            print_table(columns, lines)
            print(f"load at the end {os.getloadavg()[0]:.2f}")
    save_figures(options.output / f"{options.name}.json", figures)


if __name__ == "__main__":
    run_command(main)
