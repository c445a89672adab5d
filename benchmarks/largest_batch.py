"""Find the largest global batch of one process on a GPU, with its memory and speed beside those of a plain batch.

python -m benchmarks.largest_batch                       # ViT-B/16 at 224 pixels, bf16
python -m benchmarks.largest_batch --small --batches 8 16   # the same code on any machine, tiny towers

One step (forward, backward, AdamW) of the model with cached text features and uint8 images on the device, as a training
run makes it: first the plain batch, then chunks of `--chunk` rows with the tiled loss at doubled batches, until memory
runs out. Each makes one step to warm up and two that are timed.
"""

import time

import torch
from transformers import DistilBertConfig, ViTConfig

from modeling_clipscratch import ClipScratchConfig, ClipScratchModel
from modeling_clipscratch.cli.command_line import run_command
from modeling_clipscratch.data.images.augment import Augment, Views
from modeling_clipscratch.training.loss.tiled_loss import global_loss

from .reporting import machine, parser_of, print_table, save_figures

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32}


def build(small, device):
    text = DistilBertConfig(n_layers=1)  # in place of the cached tower: 768 wide, frozen, never run
    vision = ViTConfig(**SMALL) if small else ViTConfig()
    torch.manual_seed(0)
    model = ClipScratchModel(ClipScratchConfig(text, vision)).to(device).train()
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return model, torch.optim.AdamW(learned, lr=1e-4, fused=device.type == "cuda")


def step(model, optimizer, pixels, features, group, chunk, device):
    look = Augment(mean=[0.5] * 3, std=[0.5] * 3, horizontal_flip=0.5)
    views = Views(images=pixels, samples=group, may_flip=group >= 0, augment=look)
    with torch.autocast(device.type, torch.bfloat16):
        output = model(
            pixel_values=views[:] if chunk is None else views, text_features=features, return_logits=False,
            encode_chunk_size=chunk,
        )  # fmt: skip
    parts = (output.image_embeds, output.text_embeds, output.logit_scale)
    loss, _ = global_loss(*parts, loss="softmax", group=group)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()  # waits for the device


def measure(rows, chunk, small, device):
    """Return seconds per step, images/s and peak bytes, or `None` if memory runs out."""
    try:
        model, optimizer = build(small, device)
        edge = model.config.vision_config.image_size
        pixels = torch.randint(0, 256, (rows, edge, edge, 3), dtype=torch.uint8, device=device)
        features, group = torch.randn(rows, 768, device=device), torch.arange(rows, device=device)
        inputs = (model, optimizer, pixels, features, group, chunk, device)
        step(*inputs)
        began = time.perf_counter()
        for _ in range(2):
            step(*inputs)
        seconds = (time.perf_counter() - began) / 2
    except torch.OutOfMemoryError:
        return None
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return {"seconds": seconds, "images_per_second": rows / seconds, "bytes": peak}


def main(arguments: list[str]) -> None:
    parser = parser_of("largest_batch")
    parser.add_argument("--plain", type=int, default=1024, help="rows of the batch that is encoded at once")
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--batches", type=int, nargs="+", default=[1024 * 2**power for power in range(10)])
    parser.add_argument("--small", action="store_true", help="tiny towers")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.small:
        raise ValueError("no CUDA device is found, and ViT-B/16 is too slow on a CPU; set --small, or run on a GPU.")
    print(f"{machine()}, {torch.cuda.get_device_name() if device.type == 'cuda' else 'CPU'}")
    cells = [(options.plain, None), *((rows, min(options.chunk, rows)) for rows in options.batches)]
    found, rows = [], []
    for batch, chunk in cells:
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        cell = measure(batch, chunk, options.small, device)
        found.append({"batch": batch, "chunk": chunk, "found": cell})
        shown = ["out of memory"] * 3
        if cell is not None:
            shown = [f"{cell['bytes'] / 1e9:.1f} GB", f"{cell['seconds']:.2f} s", f"{cell['images_per_second']:,.0f}"]
        rows.append([f"{batch:,}", "at once" if chunk is None else f"{chunk:,}", *shown])
        print(*rows[-1], flush=True)
        if cell is None and chunk is not None:
            break
    print_table(["global batch", "chunk", "peak", "a step", "images/s"], rows)
    save_figures(options.output / "largest_batch.json", {"cells": found})


if __name__ == "__main__":
    run_command(main)
