"""A model's folder or Hub id, pictures and labels go in; for each picture the labels, best first, come out.

python run_inference.py --model runs/digits --images a.png b.png --labels three eight --template "a photo of a {}."
"""

import argparse
import json

from modeling_clipscratch.command_line import run_command
from modeling_clipscratch.data.pictures import decode_image
from modeling_clipscratch.data.rows import DEFAULT_TEMPLATES
from modeling_clipscratch.evaluation.loading import load_model
from modeling_clipscratch.evaluation.rank_labels import bars, check_labels, rank_labels


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run_inference.py", description="Ranks labels for pictures.")
    parser.add_argument("--model", required=True, help="folder of a trained model, or a Hub id")
    parser.add_argument("--images", required=True, nargs="+", help="picture files")
    parser.add_argument("--labels", required=True, nargs="+", help="two labels or more")
    parser.add_argument(
        "--template", default=DEFAULT_TEMPLATES[0], help="{} stands for the label (default: %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    check_labels(options.labels, options.template)
    images = [decode_image(path, name=path) for path in options.images]
    model, processor = load_model(options.model, options.device)
    ranked = rank_labels(model, processor, images, options.labels, template=options.template)
    if options.json:
        found = [{"image": path, "labels": labels} for path, labels in zip(options.images, ranked, strict=True)]
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for path, labels in zip(options.images, ranked, strict=True):
        print(f"{path}\n{bars(labels)}")


def program() -> None:
    run_command(main)


if __name__ == "__main__":
    program()
