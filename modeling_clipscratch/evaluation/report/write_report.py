"""Write the folder of a report: numbers, plots and one HTML page; whole, or the earlier report is kept."""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from datasets import Dataset

from ...utils.atomic_files import replacing_files, write_text, write_whole
from ...utils.errors import ClipScratchError
from ...utils.names import printable, public_name
from ..evaluate_dataset import Result
from ..plots.all_plots import FILES, draw_plots
from .html_report import render_page
from .metric_tables import ACCOUNT, Differences, short_names, weights_sha256, write_json


def open_folder(folder: str | Path) -> Path:
    """Check, before a long evaluation, that a folder can be written to and holds no model."""
    folder = Path(folder)
    if (folder / "config.json").is_file():
        raise ClipScratchError(f"output_dir={folder} holds a model with its own metrics; choose {folder / 'report'}.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ClipScratchError(
            f"output_dir={folder} cannot be written to ({error.strerror}); choose another folder."
        ) from error
    return folder


def write_report(
    folder: str | Path,
    evaluations: Mapping[str, Mapping[str, Result]],
    differences: Differences,
    *,
    command: str = "",
    predictions: bool = False,
) -> list[Path]:
    """Write `report.html`, a page that needs no other file, and everything that it shows.

    One model: `metrics.json`, `evaluation.json` (what was measured, of which weights, by which command; the files of
    the report) and a folder for each dataset with its plots and, for class data, `per_class_recall.json`.
    Several models: `comparison.json` (differences to the first) and a folder for each model with its `metrics.json` and
    plots.

    `evaluations` has model and dataset as the user named them. With `predictions`, `predictions.parquet` is written
    beside the plots of each dataset. Files of an earlier report are replaced.

    Returns:
        The written files, the page first.
    """
    folder, weights = Path(folder), weights_sha256(next(iter(evaluations)))
    models, data = _public(evaluations), _public(next(iter(evaluations.values())))
    evaluations = {models[name]: {data[where]: of for where, of in rest.items()} for name, rest in evaluations.items()}
    differences = {data[where]: {models[name]: of for name, of in rest.items()} for where, rest in differences.items()}
    one, written, plots, stale = len(models) == 1, [Path("report.html")], {}, set()
    with replacing_files(folder, last=ACCOUNT) as staging:

        def add(path, write, *content):
            write(staging / path, *content)
            written.append(path)

        for model, results in evaluations.items():
            place, plots[model] = Path() if one else Path(_folder(model)), {}
            add(place / "metrics.json", write_json, {name: result.metrics for name, result in results.items()})
            for name, result in results.items():
                part = place / _folder(name)
                plots[model][name] = draw_plots(result, staging / part)
                written += [part / plot.path.name for plot in plots[model][name]]
                stale |= {part / file for file in FILES}
                if result.confusion is not None:
                    add(part / "per_class_recall.json", write_json, result.per_class_recall)
                if predictions:
                    add(part / "predictions.parquet", save_predictions, result)
        write_text(staging / "report.html", render_page(evaluations, plots, differences, command))
        if one:
            about = {
                name: {"name": name, "split": result.split, "task": result.task, "rows": len(result.dataset)}
                for name, result in results.items()
            }
            files = [path.as_posix() for path in written]
            account = {"command": command, "weights_sha256": weights, "data": about, "files": files}
            add(Path(ACCOUNT), write_json, account)
        else:
            plain = {
                where: {name: {metric: vars(d) for metric, d in of.items()} for name, of in rest.items()}
                for where, rest in differences.items()
            }
            add(Path("comparison.json"), write_json, plain)
    for path in stale.difference(written):
        (folder / path).unlink(missing_ok=True)  # an earlier report's
    return [folder / path for path in written]


def save_predictions(path: str | Path, result: Result) -> None:
    """Write a row for each image (class data) or caption (caption data), with ranks of what is right, 1 for the best.

    Class data: `key`, `label`, `class_name`, `predicted`, `predicted_name`, `confidence`, `rank`. Caption data: `key`,
    `caption`, `text_to_image_rank`, and `image_to_text_rank` of the image.
    """
    outcomes, names = result.outcomes, result.class_names
    keys = [printable(key) for key in result.dataset["key"][:]]
    if names is not None:
        columns = {
            "key": keys,
            "label": outcomes.labels,
            "class_name": [names[label] for label in outcomes.labels],
            "predicted": result.predicted,
            "predicted_name": [names[label] for label in result.predicted],
            "confidence": outcomes.confidence,
            "rank": outcomes.ranks,
        }
    else:
        owners = outcomes.caption_to_image
        columns = {
            "key": [keys[owner] for owner in owners],
            "caption": [caption for captions in result.dataset["captions"][:] for caption in captions],
            "text_to_image_rank": outcomes.text_ranks,
            "image_to_text_rank": outcomes.image_ranks[owners],
        }
    write_whole(path, Dataset.from_dict(columns).to_parquet)


def _public(names):
    """Name -> Hub id, or last part of a path; as many parts as make the names differ."""
    public = {name: public_name(name) for name in names}
    return public if len(set(public.values())) == len(public) else short_names(list(public))


def _folder(name):
    """Owner/birds -> owner-birds."""
    return re.sub(r"[^\w.]+", "-", name).strip("-.") or "data"
