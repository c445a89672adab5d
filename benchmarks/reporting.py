"""Print the tables of benchmarks, describe the machine, and save figures as JSON."""

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path

import torch

from modeling_clipscratch.utils.atomic_files import write_whole

REPOSITORY = Path(__file__).resolve().parents[1]


def parser_of(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"), help="folder of the PNG and the JSON")
    return parser


def machine() -> str:
    """Return processor, cores, GPU, versions and commit in one line."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "accelerate")]
    gpus = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    parts = [names[0] if names else platform.processor(), f"{os.cpu_count()} cores", *gpus, *versions]
    return ", ".join([*parts, f"Python {platform.python_version()}", f"commit {_commit()}"])


def _commit():
    if shutil.which("git") is None:
        return "unknown"
    command = ["git", "describe", "--always", "--dirty"]
    asked = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "unknown"


def print_table(head: list[str], rows: list[list[str]]) -> None:
    """Print aligned columns, the first to the left, the others to the right."""
    table = [head, *rows]
    widths = [max(len(line[column]) for line in table) for column in range(len(head))]
    for first, *rest in table:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        print("  ".join(cells).rstrip(), flush=True)


def save_figures(path: Path, figures: dict) -> None:
    """Write the figures with the machine as JSON, whole or not at all."""
    text = json.dumps({"machine": machine(), **figures}, indent=2) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text))


def tidy(axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, color="0.6")
    axes.minorticks_off()
