"""`clipscratch eval`: measure models on datasets, print a table, write a report."""

import argparse
import logging
import shlex
from collections.abc import Sequence
from typing import get_args

from ..data.columns import DATA_OPTIONS
from ..data.load import ImageTextData, describe_data, load_data
from ..data.splits import NoSuchSplitError
from ..evaluation.evaluate_models import differences_to_first, evaluate_models, text_summary
from ..evaluation.report.write_report import check_report_folder, write_report
from ..training.recipe.arguments import recipe_fields
from ..utils.errors import ClipScratchError
from ..utils.names import public_name

logger = logging.getLogger(__name__)


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for each field of `DataOptions`."""
    for option, field in DATA_OPTIONS.items():
        about = {**recipe_fields()[option].metadata, "default": field.default}
        if option == "cache_dir":  # that of a recipe is for features
            about["help"] = "Folder for downloaded and converted files. Default: that of datasets."
        parser.add_argument(f"--{option}", nargs="+" if Sequence[str] in get_args(field.type) else None, **about)


def load_split(name: str, options: argparse.Namespace) -> ImageTextData:
    """Load one split, the one to measure."""
    named = {field.name: getattr(options, option) for option, field in DATA_OPTIONS.items()}
    named["validation_fraction"] = options.validation_fraction
    try:
        return load_data(name, splits=["test" if options.split == "auto" else options.split], **named)
    except NoSuchSplitError:
        if options.split != "auto":
            raise
        data = load_data(name, splits=["validation"], **named)
        logger.info("%s has no test split; its validation split is measured.", name)
        return data


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="clipscratch eval", description="Measure models on datasets.")
    add = parser.add_argument
    add("--model", required=True, nargs="+", help="folders of models, or Hub ids: ClipScratch, CLIP, SigLIP, ...")
    add("--dataset", required=True, nargs="+", help="digits, scenes, folders or files, or Hub ids")
    add("--split", default="auto", help="split to measure on (default: test, or validation where there is no test)")
    add("--output_dir", help="folder for report.html, tables and images; without it only a table is printed")
    add("--save_predictions", action="store_true", help="write predictions.parquet into the report's folder")
    add("--batch_size", type=int, default=256, help="images encoded at once (default: %(default)s)")
    add("--device", default="auto", help="auto, cpu, cuda, ... (default: %(default)s)")
    add("--validation_fraction", type=float, default=0.1, help="as in training, for data without a validation split")
    add_data_options(parser)
    options = parser.parse_args(arguments)
    if options.batch_size < 1:
        raise ClipScratchError(f"batch_size={options.batch_size} is less than 1; choose 1 or more.")
    if options.output_dir is None and options.save_predictions:
        raise ClipScratchError("--save_predictions needs --output_dir.")
    # All datasets are opened before any is measured, so that a wrong name is reported at once.
    data = {name: load_split(name, options) for name in options.dataset}
    for name, parts in data.items():
        for line in describe_data(parts):
            logger.info("%s, %s", name, line)
    if options.output_dir is not None:
        check_report_folder(options.output_dir)
    settings = {name: vars(options)[name] for name in ("device", "batch_size", "on_bad_row")}
    settings |= {"templates": options.templates} if options.templates else {}
    evaluations = evaluate_models(options.model, data, progress=True, **settings)
    differences = differences_to_first(evaluations)
    print(text_summary(evaluations, differences))
    if options.output_dir is not None:
        command = shlex.join(["clipscratch", "eval", *map(public_name, arguments)])  # a report may be published
        saved = {"command": command, "predictions": options.save_predictions}
        page, *others = write_report(options.output_dir, evaluations, differences, **saved)
        print(f"wrote {page} and {len(others)} files beside it")
