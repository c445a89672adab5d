"""`clipscratch eval`: measure models on datasets, print a table, write a report."""

import argparse
import logging
import shlex
from collections.abc import Sequence
from typing import Any, get_args

from ..data.columns import DATA_OPTIONS
from ..data.load import describe_data, load_data
from ..data.splits import canonical_split
from ..evaluation.evaluate_dataset import PROBES, TASKS
from ..evaluation.evaluate_models import differences_to_first, evaluate_models, text_summary
from ..evaluation.report.write_report import open_folder, write_report
from ..training.recipe.arguments import recipe_fields
from ..utils.errors import ClipScratchError
from ..utils.names import once_each

logger = logging.getLogger(__name__)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="clipscratch eval", description="Measure models on datasets.")
    add = parser.add_argument
    add("--model", required=True, nargs="+", help="folders of models, or Hub ids: ClipScratch, CLIP, SigLIP, ...")
    add("--dataset", required=True, nargs="+", help="digits, scenes, folders or files, or Hub ids")
    add("--task", default="auto", choices=["auto", *TASKS], help="auto: zero_shot for classes, retrieval for captions")
    add("--split", default="test", help="split to measure on (default: %(default)s)")
    add("--output_dir", help="folder for report.html, tables and images; without it only a table is printed")
    add("--seeds", action="store_true", help="the models are seeds of one recipe: print mean and standard deviation")
    add("--save_predictions", action="store_true", help="write predictions.parquet into the report's folder")
    add("--save_embeddings", action="store_true", help="write embeddings.safetensors into the report's folder")
    add("--batch_size", type=int, default=256, help="images encoded at once (default: %(default)s)")
    add("--device", default="auto", help="auto, cpu, cuda, ... (default: %(default)s)")
    add("--validation_fraction", type=float, default=0.1, help="as in training, for data without a validation split")
    add_data_options(parser)
    options = parser.parse_args(arguments)
    if options.batch_size < 1:
        raise ClipScratchError(f"batch_size={options.batch_size} is less than 1; choose 1 or more.")
    once_each("model", options.model)
    once_each("dataset", options.dataset)
    if options.seeds and len(options.model) < 2:
        raise ClipScratchError("--seeds needs two models or more, since one alone has no standard deviation.")
    if options.task in PROBES and canonical_split(options.split) == "train":
        raise ClipScratchError(
            f"task={options.task} learns from the training split; measure it on another (--split test)."
        )
    if options.output_dir is None and (options.save_predictions or options.save_embeddings):
        raise ClipScratchError("--save_predictions and --save_embeddings need --output_dir.")
    return options


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for each field of `DataOptions`, with the help that it has in a recipe."""
    for option, field in DATA_OPTIONS.items():
        about = {**recipe_fields()[option].metadata, "default": field.default}
        if option == "cache_dir":  # that of a recipe is for features
            about["help"] = "Folder for downloaded and converted files. Default: that of datasets."
        parser.add_argument(f"--{option}", nargs="+" if Sequence[str] in get_args(field.type) else None, **about)


def data_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options that `add_data_options` added, as `load_data` takes them."""
    return {field.name: getattr(options, option) for option, field in DATA_OPTIONS.items()}


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    splits = ["train"] * (options.task in PROBES) + [options.split]
    named = {"splits": splits, "validation_fraction": options.validation_fraction, **data_options(options)}
    # All datasets are opened before any is measured, so that a wrong name is reported at once.
    data = {name: load_data(name, **named) for name in options.dataset}
    for name, parts in data.items():
        for line in describe_data(parts):
            logger.info("%s, %s", name, line)
    if options.output_dir is not None:
        open_folder(options.output_dir)
    settings = {name: vars(options)[name] for name in ("split", "task", "device", "batch_size", "on_bad_row")}
    settings |= {"templates": options.templates} if options.templates else {}
    evaluations = evaluate_models(options.model, data, progress=True, **settings)
    differences = differences_to_first(evaluations)
    print(text_summary(evaluations, differences, seeds=options.seeds))
    if options.output_dir is not None:
        command = shlex.join(["clipscratch", "eval", *arguments])
        saved = {"predictions": options.save_predictions, "embeddings": options.save_embeddings}
        page, *others = write_report(options.output_dir, evaluations, differences, command=command, **saved)
        print(f"wrote {page} and {len(others)} files beside it")
