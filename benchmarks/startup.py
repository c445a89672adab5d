"""A recipe with frozen towers goes in; how long its second run takes to its first step, and to its end, comes out.

python -m benchmarks.startup --dataset clip-benchmark/wds_flickr8k

The first run fills the caches and is not counted. Then, in turn: a process that imports transformers' Trainer and
loads the two towers, and a run of `configuration/flickr8k.yaml`, each started anew; medians of `--repeats`.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

from modeling_clipscratch.command_line import run_command
from modeling_clipscratch.training.recipe import read_recipe

from .reporting import REPOSITORY, machine, parser_of, print_table, save_figures

RECIPE = REPOSITORY / "configuration" / "flickr8k.yaml"
# The clock is the system's, set before the process was started.
FLOOR = """
import sys, time
from transformers import AutoModel, Trainer
for tower in sys.argv[2:]:
    AutoModel.from_pretrained(tower)
print("loaded", time.time() - float(sys.argv[1]))
"""
RUN = """
import sys, time
import run_train
from modeling_clipscratch.training.trainer import ClipScratchTrainer
step, said = ClipScratchTrainer.training_step, []
def first(self, *args, **kwargs):
    loss = step(self, *args, **kwargs)
    if not said:
        said.append(print("first step", time.time() - float(sys.argv[1])))
    return loss
ClipScratchTrainer.training_step = first
run_train.main(sys.argv[2:])
print("end", time.time() - float(sys.argv[1]))
"""


def seconds(program: str, *arguments: str) -> dict[str, float]:
    """What a program of its own said of its time since it was started: {name: seconds}."""
    command = [sys.executable, "-c", program, str(time.time()), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    words = [line.rsplit(" ", 1) for line in done.stdout.splitlines()]
    return {name: float(value) for name, value in words if name in ("loaded", "first step", "end")}


def main(arguments: list[str]) -> None:
    parser = parser_of("startup")
    recipe = read_recipe(RECIPE)
    for name in ("dataset", "text_tower", "vision_tower"):
        parser.add_argument(f"--{name}", default=recipe[name])
    parser.add_argument("--cache_dir")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    towers = [options.text_tower, options.vision_tower]
    given = [str(RECIPE), "--dataset", options.dataset, "--text_tower", towers[0], "--vision_tower", towers[1]]
    given += ["--test_split", "none", "--disable_tqdm", "true", "--overwrite_output_dir", "true"]
    given += ["--cache_dir", options.cache_dir] if options.cache_dir else []
    print(machine())
    found = []
    with tempfile.TemporaryDirectory() as folder:
        given += ["--output_dir", f"{folder}/run"]
        print(f"first run: {seconds(RUN, *given)['end']:.1f} s, the caches filled where they were not", flush=True)
        for _ in range(options.repeats):
            found.append(seconds(FLOOR, *towers) | seconds(RUN, *given))
    medians = {name: statistics.median(run[name] for run in found) for name in found[0]}
    rows = [[name, f"{medians[name]:.1f} s", ", ".join(f"{run[name]:.1f}" for run in found)] for name in medians]
    print_table(["since the start of the process", "median", "each"], rows)
    print(f"first step after Trainer and towers: {medians['first step'] - medians['loaded']:.1f} s")
    save_figures(options.output / "startup.json", {"runs": found})


if __name__ == "__main__":
    run_command(main)
