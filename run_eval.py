"""A model's folder or Hub id and data sets go in; tables, and with --output_dir a report with pictures, come out.

python run_eval.py --model runs/digits --dataset digits --output_dir report
"""

import argparse

from modeling_clipscratch.command_line import run_command
from modeling_clipscratch.data import load_rows
from modeling_clipscratch.evaluation.evaluate_rows import evaluate_rows
from modeling_clipscratch.evaluation.loading import load_model
from modeling_clipscratch.evaluation.report import open_folder, write_report
from modeling_clipscratch.evaluation.tables import text_table


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run_eval.py", description="Measures a model on data sets.")
    parser.add_argument("--model", required=True, help="folder of a trained model, or a Hub id")
    parser.add_argument("--dataset", required=True, nargs="+", help="digits, scenes, a folder or file, or a Hub id")
    parser.add_argument("--split", default="test", help="split to measure on (default: %(default)s)")
    parser.add_argument("--output_dir", help="folder for metrics.json, table.md and pictures; without it only a table")
    parser.add_argument("--batch_size", type=int, default=256, help="pictures at once (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (default: %(default)s)")
    parser.add_argument(
        "--on_bad_image", choices=["raise", "skip"], default="raise", help="what to do with broken ones"
    )
    parser.add_argument("--image_column", help="name of the column of pictures")
    parser.add_argument("--caption_column", help="name of the column of captions")
    parser.add_argument("--label_column", help="name of the column of labels")
    parser.add_argument("--class_names", nargs="+", help="names of the classes, in the order of their labels")
    parser.add_argument("--templates", nargs="+", help="prompts; {} stands for the class")
    options = parser.parse_args(arguments)
    if options.batch_size < 1:
        raise ValueError(f"batch_size={options.batch_size} is too small; choose 1 or more.")
    twice = next((name for n, name in enumerate(options.dataset) if name in options.dataset[:n]), None)
    if twice is not None:
        raise ValueError(f"dataset {twice} is named twice; name each once.")
    return options


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    chosen = ("image_column", "caption_column", "label_column", "class_names", "templates")
    columns = {name: getattr(options, name) for name in chosen}
    # All data sets are opened before any is measured, so that a wrong name is known at once.
    rows = {name: load_rows(name, options.split, **columns) for name in options.dataset}
    model, processor = load_model(options.model, options.device)
    if options.output_dir is not None:
        open_folder(options.output_dir)
    settings = {"batch_size": options.batch_size, "on_bad_image": options.on_bad_image}
    results = {name: evaluate_rows(model, processor, found, progress=True, **settings) for name, found in rows.items()}
    print(text_table({name: result.metrics for name, result in results.items()}))
    if options.output_dir is not None:
        for path in write_report(options.output_dir, {options.model: results}):
            print(f"wrote {path}")


def program() -> None:
    run_command(main)


if __name__ == "__main__":
    program()
