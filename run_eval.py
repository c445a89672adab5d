"""Measure models on datasets: print a table, and with --output_dir write a report with images.

python run_eval.py --model runs/digits --dataset digits --output_dir report
python run_eval.py --model runs/a runs/b openai/clip-vit-base-patch32 --dataset photos cifar10 --output_dir report
"""

import argparse
import logging
import os
import shlex
import signal
import sys

if sys.argv[0].endswith(("run_eval.py", "clipscratch-eval")):
    # While the libraries are imported; then it is `run_command`'s.
    signal.signal(signal.SIGINT, lambda *_: (os.write(2, b"stopped.\n"), os._exit(130)))

from modeling_clipscratch.cli.command_line import add_data_options, data_options, run_command
from modeling_clipscratch.data.load import describe_data, load_data
from modeling_clipscratch.data.splits import canonical_split
from modeling_clipscratch.evaluation.evaluate_dataset import PROBES, TASKS
from modeling_clipscratch.evaluation.evaluate_models import differences_to_first, evaluate_models, text_summary
from modeling_clipscratch.evaluation.report.write_report import write_report
from modeling_clipscratch.sharing.push_report import open_report, push_report
from modeling_clipscratch.utils.names import once_each

logger = logging.getLogger("modeling_clipscratch.run_eval")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run_eval.py", description="Measures models on datasets.")
    add = parser.add_argument
    add("--model", required=True, nargs="+", help="folders of models, or Hub ids: ClipScratch, CLIP, SigLIP, ...")
    add("--dataset", required=True, nargs="+", help="digits, scenes, folders or files, or Hub ids")
    add("--task", default="auto", choices=["auto", *TASKS], help="auto: zero_shot for classes, retrieval for captions")
    add("--split", default="test", help="split to measure on (default: %(default)s)")
    add("--output_dir", help="folder for report.html, tables and images; without it only a table")
    add("--seeds", action="store_true", help="the models are seeds of one recipe: mean and standard deviation")
    add("--save_predictions", action="store_true", help="predictions.parquet beside the images of the report")
    add("--save_embeddings", action="store_true", help="embeddings.safetensors beside the images of the report")
    add("--push_to_hub", metavar="ID", help="publish the report, which shows images of the dataset, beside that model")
    add("--batch_size", type=int, default=256, help="images at once (default: %(default)s)")
    add("--device", default="auto", help="auto, cpu, cuda, ... (default: %(default)s)")
    add("--validation_fraction", type=float, default=0.1, help="as in training, where train has to give validation")
    add_data_options(parser)
    options = parser.parse_args(arguments)
    if options.batch_size < 1:
        raise ValueError(f"batch_size={options.batch_size} is too small; choose 1 or more.")
    once_each("model", options.model)
    once_each("dataset", options.dataset)
    if options.seeds and len(options.model) < 2:
        raise ValueError("--seeds needs the models of two seeds or more; one alone has no spread.")
    if options.task in PROBES and canonical_split(options.split) == "train":
        raise ValueError(f"task={options.task} learns from the training split; measure it on another (--split test).")
    if options.output_dir is None and (options.save_predictions or options.save_embeddings or options.push_to_hub):
        raise ValueError("--save_predictions, --save_embeddings and --push_to_hub need --output_dir, for the report.")
    return options


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    splits = ["train"] * (options.task in PROBES) + [options.split]
    named = {"splits": splits, "validation_fraction": options.validation_fraction, **data_options(options)}
    # All datasets are opened before any is measured, so that a wrong name is known at once.
    data = {name: load_data(name, **named) for name in options.dataset}
    for name, parts in data.items():
        for line in describe_data(parts):
            logger.info("%s, %s", name, line)
    if options.output_dir is not None:
        options.push_to_hub = open_report(options.output_dir, options.push_to_hub)
    settings = {name: vars(options)[name] for name in ("split", "task", "device", "batch_size", "on_bad_row")}
    settings |= {"templates": options.templates} if options.templates else {}
    evaluations = evaluate_models(options.model, data, progress=True, **settings)
    differences = differences_to_first(evaluations)
    print(text_summary(evaluations, differences, seeds=options.seeds))
    if options.output_dir is not None:
        command = shlex.join(["python", "run_eval.py", *arguments])
        saved = {"predictions": options.save_predictions, "embeddings": options.save_embeddings}
        page, *others = write_report(options.output_dir, evaluations, differences, command=command, **saved)
        print(f"wrote {page} and {len(others)} files beside it")
        if options.push_to_hub:
            print(f"published: {push_report(options.output_dir, [page, *others], options.push_to_hub)}")


def program() -> None:
    run_command(main)


if __name__ == "__main__":
    program()
