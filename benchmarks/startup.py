"""Time the start of commands: until the help is printed, until the first step, and to the end.

python -m benchmarks.startup --parts help digits
python -m benchmarks.startup --dataset clip-benchmark/wds_flickr8k

help    the help of training, beside a process that imports transformers' Trainer and nothing else.
digits  `configuration/digits.yaml` until its first step is done, with the seconds of each part.
second  the second run of `configuration/flickr8k.yaml`, after a first one that cached the features of the frozen
        towers, beside a process that imports the Trainer and loads the two towers.

Each measurement is a new process, those of a part in turn; medians of `--repeats`.
"""

import os
import subprocess
import sys
import tempfile
import time
from statistics import median

from modeling_clipscratch.cli.command_line import run_command
from modeling_clipscratch.training.recipe.recipe import read_recipe

from .reporting import REPOSITORY, machine, parser_of, print_table, save_figures

DIGITS, FLICKR8K = (REPOSITORY / "configuration" / f"{name}.yaml" for name in ("digits", "flickr8k"))
# Seconds are counted from before the process was started.
TRAINER = """
import sys, time
from transformers import Trainer
print("Trainer imported", time.time() - float(sys.argv[1]))
"""
HELP = """
import contextlib, io, sys, time
from modeling_clipscratch.cli import train as run_train
began = float(sys.argv[1])
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    run_train.main(["--help"])
print("help printed", time.time() - began)
"""
FLOOR = """
import sys, time
from transformers import AutoModel, Trainer
for tower in sys.argv[2:]:
    AutoModel.from_pretrained(tower)
print("loaded", time.time() - float(sys.argv[1]))
"""
RUN = """
import sys, time
from modeling_clipscratch.cli import train as run_train
began = float(sys.argv.pop(1))
spent, inside = {"imports": time.time() - began}, []

from modeling_clipscratch.data.images.preprocess import Preprocess
from modeling_clipscratch.training import run
from modeling_clipscratch.training.features import pairs
from modeling_clipscratch.training.trainer import ClipScratchTrainer

def count(owner, name, part):
    function = getattr(owner, name)
    def counted(*args, **kwargs):
        if inside:  # called by a part that is counted already
            return function(*args, **kwargs)
        inside.append(part)
        start = time.time()
        try:
            return function(*args, **kwargs)
        finally:
            inside.pop()
            spent[part] = spent.get(part, 0) + time.time() - start
    setattr(owner, name, counted)

for owner, name, part in (
    (run, "open_source", "data"), (run, "load_splits", "data"), (pairs.CaptionTable, "of", "data"),
    (pairs, "TokenTable", "data"), (Preprocess, "read_all", "data"), (run, "build_model", "towers"),
    (pairs, "cached_text_features", "cached features"), (pairs, "cached_image_features", "cached features"),
    (ClipScratchTrainer, "training_step", "first step"),
):
    count(owner, name, part)

step, printed = ClipScratchTrainer.training_step, []
def first(self, *args, **kwargs):
    loss = step(self, *args, **kwargs)
    if not printed:
        whole = time.time() - began
        printed.append(print("first step", whole))
        for part, seconds in {**spent, "rest": whole - sum(spent.values())}.items():
            print("of it " + part, seconds)
    return loss
ClipScratchTrainer.training_step = first
run_train.main(sys.argv[1:])
print("end", time.time() - began)
"""


def seconds(program: str, *arguments: str) -> dict[str, float]:
    """Run a program and return {name: seconds} of the lines that it prints."""
    command = [sys.executable, "-c", program, str(time.time()), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    words = [line.rsplit(" ", 1) for line in done.stdout.splitlines()]
    names = ("Trainer imported", "help printed", "loaded", "first step", "end")
    return {name: float(value) for name, value in words if name in names or name.startswith("of it ")}


def help_beside_trainer(options, folder: str) -> list[dict]:
    found = [seconds(TRAINER) | seconds(HELP) for _ in range(options.repeats)]
    medians = show(found)
    print(f"help to Trainer: {medians['help printed'] / medians['Trainer imported']:.2f}")
    return found


def first_step_of_digits(options, folder: str) -> list[dict]:
    arguments = [str(DIGITS), "--max_steps", "1", *_quietly(f"{folder}/digits"), "--eval_strategy", "no"]
    found = [seconds(RUN, *arguments, "--save_strategy", "no") for _ in range(options.repeats)]
    show(found)
    return found


def second_run(options, folder: str) -> list[dict]:
    towers = [options.text_tower, options.vision_tower]
    arguments = [str(FLICKR8K), "--dataset", options.dataset, "--text_tower", towers[0], "--vision_tower", towers[1]]
    arguments += ["--cache_dir", options.cache_dir] if options.cache_dir else []
    arguments += _quietly(f"{folder}/flickr8k")
    print(f"first run: {seconds(RUN, *arguments)['end']:.1f} s, which fills the caches", flush=True)
    found = [seconds(FLOOR, *towers) | seconds(RUN, *arguments) for _ in range(options.repeats)]
    medians = show(found)
    print(f"first step after Trainer and towers: {medians['first step'] - medians['loaded']:.1f} s")
    return found


PARTS = {"help": help_beside_trainer, "digits": first_step_of_digits, "second": second_run}


def _quietly(folder: str) -> list[str]:
    return ["--test_split", "none", "--disable_tqdm", "true", "--overwrite_output_dir", "true", "--output_dir", folder]


def show(found: list[dict]) -> dict[str, float]:
    """Print a table of all times and return their medians."""
    medians = {name: median(run[name] for run in found) for name in found[0]}
    rows = [[name, f"{medians[name]:.2f} s", ", ".join(f"{run[name]:.2f}" for run in found)] for name in medians]
    print_table(["since the start of the process", "median", "each"], rows)
    return medians


def main(arguments: list[str]) -> None:
    parser = parser_of("startup")
    recipe = read_recipe(FLICKR8K)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    for name in ("dataset", "text_tower", "vision_tower"):
        parser.add_argument(f"--{name}", default=recipe[name], help="for the part `second`")
    parser.add_argument("--cache_dir")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        runs = {part: PARTS[part](options, folder) for part in options.parts}
    save_figures(options.output / "startup.json", {"runs": runs})


if __name__ == "__main__":
    run_command(main)
