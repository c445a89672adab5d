"""Write the folder of a report: numbers, plots and one HTML page; whole, or the earlier report is kept."""

import base64
import re
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import jinja2
import numpy as np
from datasets import Dataset

from ...utils.atomic_files import explaining_failures, replacing_files, write_text, write_whole
from ...utils.errors import ClipScratchError
from ...utils.names import printable
from ...utils.versions import versions
from ..evaluate_dataset import Result
from ..plots.result_plots import FILES, draw_plots
from .metric_tables import ACCOUNT, Differences, percent, public_names, rows_of_page, weights_sha256, write_json

TITLES = {"top1": "top-1 accuracy", "top5": "top-5 accuracy", "zero_shot": "zero-shot classification"}


def check_report_folder(folder: str | Path) -> None:
    """Check, before a long evaluation, that a folder can be written to and holds no model."""
    folder = Path(folder)
    if (folder / "config.json").is_file():
        raise ClipScratchError(f"output_dir={folder} holds a model with its own metrics; choose {folder / 'report'}.")
    with explaining_failures(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


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
    models, data = public_names([*evaluations]), public_names([*next(iter(evaluations.values()))])
    evaluations = {models[name]: {data[where]: of for where, of in rest.items()} for name, rest in evaluations.items()}
    differences = {data[where]: {models[name]: of for name, of in rest.items()} for where, rest in differences.items()}
    plots, stale = {}, set()
    with replacing_files(folder, last=ACCOUNT) as staging:
        for model, results in evaluations.items():
            place = staging if len(models) == 1 else staging / _folder(model)
            write_json(place / "metrics.json", {name: result.metrics for name, result in results.items()})
            for name, result in results.items():
                part = place / _folder(name)
                plots[model, name] = draw_plots(result, part)
                stale |= {part / file for file in FILES}
                if result.confusion is not None:
                    write_json(part / "per_class_recall.json", result.per_class_recall)
                if predictions:
                    save_predictions(part / "predictions.parquet", result)
        page = staging / "report.html"
        write_text(page, render_page(evaluations, plots, differences, command))
        written = [page, *sorted(path for path in staging.rglob("*") if path.is_file() and path != page)]
        if len(models) == 1:
            about = {
                name: {"task": result.task, "split": str(result.dataset.split or "-"), "rows": len(result.dataset)}
                for name, result in results.items()
            }
            files = [path.relative_to(staging).as_posix() for path in written]
            written.append(staging / ACCOUNT)
            write_json(written[-1], {"command": command, "weights_sha256": weights, "data": about, "files": files})
        else:
            written.append(staging / "comparison.json")
            write_json(written[-1], differences)
    for path in stale.difference(written):
        (folder / path.relative_to(staging)).unlink(missing_ok=True)  # an earlier report's
    return [folder / path.relative_to(staging) for path in written]


def render_page(
    evaluations: Mapping[str, Mapping[str, Result]],
    plots: Mapping[tuple[str, str], Sequence[tuple]],
    differences: Differences,
    command: str,
) -> str:
    """Render the HTML page, with the plots of (model, dataset) inside; Jinja escapes every name and caption."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {
        "percent": percent,
        "in_words": lambda name: TITLES.get(name, name.replace("_", " ")),
        "base64": lambda path: base64.b64encode(path.read_bytes()).decode(),
    }
    return environment.get_template("page.html").render(
        models=list(evaluations),
        date=datetime.now().astimezone().strftime("%d %B %Y, %H:%M"),
        command=command,
        versions=versions(),
        tables=[
            (name, result, rows_of_page([of[name].metrics for of in evaluations.values()], differences.get(name, {})))
            for name, result in next(iter(evaluations.values())).items()
        ],
        details=[(model, name, evaluations[model][name], of_result) for (model, name), of_result in plots.items()],
        confusions=worst_confusions,
    )


def worst_confusions(confusion: np.ndarray, class_names: Sequence[str], most: int = 10) -> list[tuple]:
    """List the most frequent mistakes: true class, predicted class, count, and images of the true class.

    >>> worst_confusions(np.array([[3, 1], [0, 2]]), ["cat", "dog"])
    [('cat', 'dog', 1, 4)]
    """
    wrong = confusion - np.diag(confusion.diagonal())
    cells = np.argsort(-wrong, axis=None, kind="stable")[: min(most, np.count_nonzero(wrong))]
    pairs = [divmod(cell, len(wrong)) for cell in cells.tolist()]
    return [(class_names[row], class_names[to], int(wrong[row, to]), int(confusion[row].sum())) for row, to in pairs]


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


def _folder(name):
    """Owner/birds -> owner-birds."""
    return re.sub(r"[^\w.]+", "-", name).strip("-.") or "data"
