"""Measure the peak memory of a training step, plain, in chunks and in tiles, and of the loss alone, by batch size.

python -m benchmarks.memory

Each cell runs in its own process (Linux): it builds the model and its inputs (uint8 images, cached text features),
warms up on a few rows, and makes one forward and backward pass. Its memory is the highest resident size (VmHWM) minus
the resident size before the pass. Towers: ViT, 64 wide, 2 layers, 32x32 pixels in patches of 8; cached text features,
64 wide; projections to 512; fp32.

plain: the whole batch encoded at once, the whole B x B matrix (`contrastive_loss`). chunked: encoded 64 rows at a
time, the same matrix. streamed: chunked, and the loss in tiles (`global_loss`). For the loss alone the embeddings are
inputs, and the memory is what it takes beyond them and their gradients.

A cell that is expected (from the two before it, as b B + c B^2) to need more than `--limit_gb` is not run; each process
has that limit, too.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import DistilBertConfig, ViTConfig

from modeling_clipscratch import ClipScratchConfig, ClipScratchModel
from modeling_clipscratch.cli.command_line import run_command
from modeling_clipscratch.data.images.augment import Augment, Views
from modeling_clipscratch.evaluation.plots.figures import BLACK, BLUE, VERMILLION, new_figure, save_figure
from modeling_clipscratch.hub.losses_clipscratch import contrastive_logits, contrastive_loss
from modeling_clipscratch.training.loss.tiled_loss import global_loss

from .reporting import REPOSITORY, machine, parser_of, print_table, save_figures, tidy

STEPS, LOSSES = ("plain", "chunked", "streamed"), ("full matrix", "streamed loss")
WIDTH, PROJECTION, CHUNK, WARM_UP = 64, 512, 64, 8
STYLES = {
    "plain": (BLACK, "-", "o"),
    "chunked": (VERMILLION, "--", "s"),
    "streamed": (BLUE, "-.", "^"),
    "full matrix": (VERMILLION, "--", "s"),
    "streamed loss": (BLUE, "-.", "^"),
}


def training_step(kind, rows):
    """Return a function that makes one step, with its model and inputs already in memory."""
    torch.manual_seed(0)
    text = DistilBertConfig(dim=WIDTH, n_layers=1, n_heads=2, hidden_dim=WIDTH, vocab_size=20)
    vision = ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=4 * WIDTH, image_size=32,
        patch_size=8,
    )  # fmt: skip
    model = ClipScratchModel(ClipScratchConfig(text, vision, projection_dim=PROJECTION)).train()
    pixels = torch.randint(0, 256, (rows, 32, 32, 3), dtype=torch.uint8)
    features, group = torch.randn(rows, WIDTH), torch.arange(rows)
    look = Augment(mean=[0.5] * 3, std=[0.5] * 3)

    def step(count=rows):
        views = Views(images=pixels[:count], samples=group[:count], may_flip=group[:count] >= 0, augment=look)
        pixel_values = views[:] if kind == "plain" else views
        chunk = None if kind == "plain" else CHUNK
        inputs = {"pixel_values": pixel_values, "text_features": features[:count], "encode_chunk_size": chunk}
        if kind == "streamed":
            output = model(**inputs, return_logits=False)
            parts = (output.image_embeds, output.text_embeds, output.logit_scale)
            loss, _ = global_loss(*parts, loss="softmax", group=group[:count])
        else:
            loss = model(**inputs, group=group[:count], return_loss=True).loss
        loss.backward()

    return step, model.parameters(), 0


def loss_alone(kind, rows):
    torch.manual_seed(0)
    embeds = [torch.nn.functional.normalize(torch.randn(rows, PROJECTION), dim=1) for _ in range(2)]
    images, texts = (tensor.requires_grad_() for tensor in embeds)
    scale, group = torch.tensor(2.6592, requires_grad=True), torch.arange(rows)

    def step(count=rows):
        parts = (images[:count], texts[:count], scale)
        if kind == "full matrix":
            loss = contrastive_loss(contrastive_logits(*parts), loss="softmax", group=group[:count])
        else:
            loss, _ = global_loss(*parts, loss="softmax", group=group[:count])
        loss.backward()

    return step, [images, texts, scale], 2 * rows * PROJECTION * 4


def memory_of_process(name):
    """Return the bytes of a line of /proc/self/status."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines[name].split()[0])


def measure(kind, rows, limit):
    """Return, in a process of its own, the memory of one step beyond what was there before, and its seconds."""
    step, learned, gradients = (training_step if kind in STEPS else loss_alone)(kind, rows)
    step(WARM_UP)  # libraries are loaded at their first use
    for parameter in learned:
        parameter.grad = None
    resource.setrlimit(resource.RLIMIT_DATA, (memory_of_process("VmData") + int(limit), resource.RLIM_INFINITY))
    Path("/proc/self/clear_refs").write_text("5")  # the highest size is counted from here
    before, began = memory_of_process("VmRSS"), time.perf_counter()
    step()
    seconds = time.perf_counter() - began
    return {"bytes": memory_of_process("VmHWM") - before - gradients, "seconds": seconds}


def fresh_cell(kind, rows, limit):
    """Run `measure` in a new process; return `None` if it ran out of memory."""
    command = [sys.executable, "-m", "benchmarks.memory", "--cell", kind, str(rows), "--limit_gb", str(limit / 1e9)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    out_of_memory = done.returncode < 0 or "allocate memory" in done.stderr or "MemoryError" in done.stderr
    if done.returncode and not out_of_memory:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout) if done.returncode == 0 else None


def expected(measured, rows):
    """Extrapolate bytes and seconds to `rows` as b B + c B^2 through the last two cells, neither part below zero."""
    if len(measured) < 2:
        return 0, 0
    answer = []
    (m, low), (n, high) = list(measured.items())[-2:]
    for name in ("bytes", "seconds"):
        square = max((high[name] / n - low[name] / m) / (n - m), 0)
        linear = max(high[name] / n - square * n, 0)
        answer.append(linear * rows + square * rows**2)
    return answer


def column(kind, batches, limit):
    """Measure a kind: {rows: {bytes, seconds}}, and {rows: expected bytes} of the cells that do not fit."""
    measured, too_large = {}, {}
    for rows in batches:
        need, seconds = expected(measured, rows)
        if seconds > 20:
            print(f"  {kind}, {rows:,} rows: some {seconds:.0f} s expected", flush=True)
        cell = fresh_cell(kind, rows, limit) if need <= limit and not too_large else None
        if cell is None:
            too_large[rows] = max(need, limit)
        else:
            measured[rows] = cell
    return measured, too_large


def table(title, kinds, batches, found, limit):
    def shown(kind, rows):
        measured, too_large = found[kind]
        if rows in measured:
            return f"{measured[rows]['bytes'] / 1e6:,.0f} MB ({measured[rows]['seconds']:.1f} s)"
        return f"more than {limit / 1e9:g} GB ({too_large[rows] / 1e9:.0f} GB expected)"

    print(f"\n{title}")
    print_table(["rows", *kinds], [[f"{rows:,}", *(shown(kind, rows) for kind in kinds)] for rows in batches])


def panel(axes, title, kinds, batches, found, limit, y):
    for kind in kinds:
        colour, dashes, marker = STYLES[kind]
        measured, too_large = found[kind]
        values = [measured[rows]["bytes"] / 1e9 for rows in measured]
        axes.plot(list(measured), values, color=colour, linestyle=dashes, marker=marker, markersize=5, label=kind)
        if too_large and measured:  # hollow marks: not run
            last = list(measured)[-1]
            beyond = {last: measured[last]["bytes"], **too_large}
            axes.plot(list(beyond), [v / 1e9 for v in beyond.values()], color=colour, linestyle=":", linewidth=1)
            hollow = {"markerfacecolor": "white", "markersize": 5, "linewidth": 0}
            axes.plot(list(too_large), [v / 1e9 for v in too_large.values()], marker, color=colour, **hollow)
    axes.axhline(limit / 1e9, color="0.6", linewidth=0.8)
    axes.text(
        batches[0],
        limit / 1e9 * 0.9,
        f" limit of {limit / 1e9:g} GB; hollow: expected",
        fontsize=8,
        color="0.3",
        va="top",
    )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(batches, [f"{rows // 1024}k" if rows >= 1024 else str(rows) for rows in batches])
    tidy(axes, title, "pairs in the batch", y)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.legend(fontsize=8, frameon=False, handlelength=3.2, loc="upper left")
    axes.set_ylim(top=3 * axes.get_ylim()[1])  # room for the legend


def main(arguments: list[str]) -> None:
    parser = parser_of("memory")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[256, 1024, 4096, 16384, 32768], help="rows of a step"
    )
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[1024, 4096, 16384, 32768, 65536, 131072], help="rows of the loss alone"
    )
    parser.add_argument("--limit_gb", type=float, default=12.0)
    parser.add_argument("--cell", nargs=2, metavar=("KIND", "ROWS"), help="one measurement, as JSON")
    options = parser.parse_args(arguments)
    limit = options.limit_gb * 1e9
    if options.cell:
        print(json.dumps(measure(options.cell[0], int(options.cell[1]), limit)))
        return
    print(machine())
    found = {kind: column(kind, options.batches, limit) for kind in STEPS}
    found |= {kind: column(kind, options.rows, limit) for kind in LOSSES}
    table("peak memory of one training step, beyond model and inputs", STEPS, options.batches, found, limit)
    table("the loss alone, beyond the embeddings and their gradients", LOSSES, options.rows, found, limit)
    figures = {
        kind: {"measured": measured, "expected_bytes": too_large} for kind, (measured, too_large) in found.items()
    }
    save_figures(options.output / "memory.json", {"limit_gb": options.limit_gb, **figures})
    figure = new_figure(10, 4)
    left, right = figure.subplots(1, 2)
    panel(left, "one training step", STEPS, options.batches, found, limit, "GB beyond model and inputs")
    panel(right, "the loss alone", LOSSES, options.rows, found, limit, "GB beyond embeddings and their gradients")
    save_figure(figure, options.output / "memory.png")


if __name__ == "__main__":
    run_command(main)
