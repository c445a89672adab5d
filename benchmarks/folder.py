"""Measure the size and the loading of a saved folder, beside a transformers model of the same towers.

python -m benchmarks.folder --text_tower TEXT --vision_tower VISION

The same towers, with 512-wide projections, are saved as a `ClipScratchModel` and as a `VisionTextDualEncoderModel`;
then again at the size of DistilBERT-base and ViT-B/16, with random weights. Each load is a process of its own
(Linux), the kinds in turn; medians of `--repeats`. Seconds: from `AutoModel` imported to every weight of the loaded
model read once (they are mapped into memory), with all imports on the way (for the registered class: this package).
Memory: the highest resident size less that after `import torch` and `AutoModel`.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from transformers import DistilBertConfig, VisionTextDualEncoderConfig, VisionTextDualEncoderModel, ViTConfig

from modeling_clipscratch import ClipScratchModel
from modeling_clipscratch.cli.command_line import run_command

from .reporting import REPOSITORY, machine, parser_of, print_table, save_figures

LOAD = """
import json, sys, time
sys.path.insert(0, sys.argv[3])
import torch
from transformers import AutoModel
def memory(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))
before, start = memory("VmRSS"), time.perf_counter()
if sys.argv[2] == "registered":
    import modeling_clipscratch
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=sys.argv[2] == "remote")
for parameter in model.parameters():
    parameter.sum()
print(json.dumps({"seconds": time.perf_counter() - start, "bytes": memory("VmHWM") - before}))
"""
KINDS = {  # row -> (folder, how)
    "VisionTextDualEncoderModel": ("dual", "theirs"),
    "ClipScratchModel, registered": ("ours", "registered"),
    "ClipScratchModel, remote code": ("ours", "remote"),
}


def save_both(base: Path, text, vision, **parts) -> None:
    """Save `base/ours` and `base/dual` with the same towers: ids, folders or configs."""
    ours, _ = ClipScratchModel.from_towers(text, vision, **parts)
    parts = {"text_config": ours.config.text_config.to_dict(), "vision_config": ours.config.vision_config.to_dict()}
    config = VisionTextDualEncoderConfig(**parts, projection_dim=ours.config.projection_dim)
    dual = VisionTextDualEncoderModel(config, vision_model=ours.vision_model, text_model=ours.text_model)
    ours.save_pretrained(base / "ours")
    dual.save_pretrained(base / "dual")


def measured(folder: Path, how: str) -> dict[str, float]:
    """Return seconds and bytes of a load in a process of its own."""
    command = [sys.executable, "-I", "-c", LOAD, str(folder), how, str(REPOSITORY)]
    environment = {**os.environ, "HF_MODULES_CACHE": str(folder.parent / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: list[str]) -> None:
    parser = parser_of("folder")
    parser.add_argument("--text_tower", required=True, help="folder or Hub id of the small pair")
    parser.add_argument("--vision_tower", required=True)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    pairs = {"as given": (options.text_tower, options.vision_tower), "base": (DistilBertConfig(), ViTConfig())}
    print(machine())
    figures = {}
    for name, towers in pairs.items():
        with tempfile.TemporaryDirectory() as base:
            save_both(Path(base), *towers, tokenizer=options.text_tower, image_processor=options.vision_tower)
            bytes_ = {kind: size(Path(base, folder)) for kind, (folder, _) in KINDS.items()}
            runs = {kind: [] for kind in KINDS}
            for repeat in range(options.repeats + 1):
                for kind, (folder, how) in KINDS.items():
                    found = measured(Path(base, folder), how)
                    if repeat:  # the first fills the file cache and the cache of the code
                        runs[kind].append(found)
        figures[name] = {kind: {"folder_bytes": bytes_[kind], "loads": runs[kind]} for kind in KINDS}
        print(f"\ntowers: {name}")
        rows = [
            [
                kind,
                f"{bytes_[kind] / 1e6:.2f} MB",
                f"{statistics.median(run['seconds'] for run in runs[kind]):.2f} s",
                f"{statistics.median(run['bytes'] for run in runs[kind]) / 1e6:.0f} MB",
            ]
            for kind in KINDS
        ]
        print_table(["", "folder", "load", "peak memory over bare imports"], rows)
    save_figures(options.output / "folder.json", figures)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


if __name__ == "__main__":
    run_command(main)
