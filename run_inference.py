"""A model with pictures and labels, a folder or a query goes in; ranked labels, an index or the best pictures come out.

python run_inference.py --model runs/digits --images a.png b.png --labels three eight --template "a photo of a {}."
python run_inference.py index holidays --model runs/mine
python run_inference.py search "a dog in the snow" --model runs/mine --index holidays --sheet found.html
"""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

if sys.argv[0].endswith(("run_inference.py", "clipscratch-inference")):
    # While the libraries are imported; then it is `run_command`'s.
    signal.signal(signal.SIGINT, lambda *_: (os.write(2, b"stopped.\n"), os._exit(130)))

from modeling_clipscratch.cli.command_line import run_command
from modeling_clipscratch.data.images.decode import decode_image
from modeling_clipscratch.data.templates import DEFAULT_TEMPLATES
from modeling_clipscratch.evaluation.load_model import load_model
from modeling_clipscratch.evaluation.rank_labels import bars, check_labels, rank_labels
from modeling_clipscratch.search import commands


def parse(arguments: list[str]) -> argparse.Namespace:
    if arguments and arguments[0].startswith("--") and arguments[0] != "--help":
        arguments = ["classify", *arguments]
    every = argparse.ArgumentParser(add_help=False)
    every.add_argument("--model", required=True, help="folder of a trained model, or a Hub id")
    every.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (default: %(default)s)")
    description = "Ranks labels for pictures; indexes a folder of pictures; searches it. Without a command: classify."
    parser = argparse.ArgumentParser(prog="run_inference.py", description=description)
    subparsers = parser.add_subparsers(required=True, metavar="command", title="commands (each has a --help)")
    classify_parser = subparsers.add_parser("classify", parents=[every], help="labels for pictures, best first")
    classify_parser.add_argument("--images", required=True, nargs="+", help="picture files")
    classify_parser.add_argument("--labels", required=True, nargs="+", help="two labels or more")
    classify_parser.add_argument(
        "--template", default=DEFAULT_TEMPLATES[0], help="{} stands for the label (default: %(default)s)"
    )
    classify_parser.add_argument("--json", action="store_true", help="print JSON")
    classify_parser.set_defaults(run=classify)
    commands.add_index_command(subparsers, every)
    commands.add_search_command(subparsers, every)
    return parser.parse_args(arguments)


def classify(options: argparse.Namespace) -> None:
    check_labels(options.labels, [options.template])
    for path in options.images:
        if not Path(path).is_file():
            decode_image(path, name=path)  # says what is wrong with it, before the model is loaded
    images = (decode_image(path, name=path) for path in options.images)  # one in memory at a time
    model, processor = load_model(options.model, options.device)
    ranked = rank_labels(model, processor, images, options.labels, templates=[options.template])
    if options.json:
        found = [{"image": path, "labels": labels} for path, labels in zip(options.images, ranked, strict=True)]
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for path, labels in zip(options.images, ranked, strict=True):
        print(f"{path}\n{bars(labels)}")


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    options.run(options)


def program() -> None:
    run_command(main)


if __name__ == "__main__":
    program()
