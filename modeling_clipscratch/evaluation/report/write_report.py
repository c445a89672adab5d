"""Results by model and data set go in; a folder with numbers, tables, pictures and one page to look at comes out.

A report is written whole, or the one that was there before stays.
"""

import json
import logging
import re
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ...hub.errors_clipscratch import ClipScratchError
from ...utils.atomic_files import free_space, replacing_files, write_text
from ...utils.local_files import read_json
from ...utils.names import public_name
from ..evaluate_dataset import Result, titled
from ..plots.all_plots import FILES, Picture, draw_pictures
from ..plots.curves import plot_curves
from .comparison import Differences, short_names, write_comparison
from .html_report import render_page
from .metric_tables import ACCOUNT, markdown_table, weights_sha256, write_metrics
from .save_results import save_embeddings, save_predictions

logger = logging.getLogger(__name__)

_CURVES = "curves.png"
_LEAST_SPACE = 2**20  # bytes of a small report


def open_folder(folder: str | Path) -> Path:
    """Tries to write there, before an evaluation that may take long; leaves nothing behind.

    Raises: ClipScratchError if that cannot be done, the disk is full, or a model is there.
    """
    made = [path for path in (Path(folder), *Path(folder).parents) if not path.exists()]
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_LEAST_SPACE))
            file.flush()
    except OSError as error:
        raise ClipScratchError(
            f"output_dir={folder} cannot be written to ({error.strerror}; {free_space(folder)} free there); "
            "choose another folder."
        ) from error
    finally:
        for path in filter(Path.is_dir, made):
            path.rmdir()
    if (Path(folder) / "config.json").is_file():
        raise ClipScratchError(
            f"output_dir={folder} holds a model, with figures of its own; choose {Path(folder) / 'report'}."
        )
    return Path(folder)


def write_report(
    folder: str | Path,
    evaluations: Mapping[str, Mapping[str, Result]],
    differences: Differences | None = None,
    *,
    command: str | None = None,
    predictions: bool = False,
    embeddings: bool = False,
) -> list[Path]:
    """Writes `report.html`, a page that needs no other file, and what it was made of.

    One model: `metrics.json`, `evaluation.json` (what was measured, of which weights, by which command; the report's
    files), `table.md` and a folder for each data set with its pictures and, for class data, `per_class_recall.json`.
    Several models: `comparison.csv`, `.json` and `.md`, and for each model a folder with its pictures. `curves.png` is
    drawn of the models that are run folders.

    Args:
        folder: made where it is not there; files of an earlier report are replaced.
        evaluations: model as the user named it -> data set as the user named it -> its result.
        differences: data set -> model -> metric -> difference to the first model.
        command: the command that measured, for the page.
        predictions: write `predictions.parquet` beside the pictures of each data set.
        embeddings: write `embeddings.safetensors` there.
    Returns: the files written.

    >>> from modeling_clipscratch.data import load_data
    >>> from modeling_clipscratch.evaluation import evaluate_dataset, load_model
    >>> dataset = load_data("scenes")["test"].select(range(2))
    >>> result = evaluate_dataset(*load_model("runs/digits"), dataset)
    >>> write_report("report", {"runs/digits": {"scenes": result}})[0].name
    'report.html'
    """
    folder = open_folder(folder)
    histories = {model: history for model in evaluations if (history := _log_history(model))}
    with replacing_files(folder, last=ACCOUNT) as staging:
        saved = {"predictions": predictions, "embeddings": embeddings}
        written = _write_files(staging, evaluations, differences, histories, command, **saved)
        written = [folder / path.relative_to(staging) for path in written]
    places = [place / name for place, of in _places(folder, evaluations).items() for name in folder_names(list(of))]
    for path in {folder / _CURVES, *(place / name for place in places for name in FILES)}.difference(written):
        path.unlink(missing_ok=True)  # an earlier report's
    return written


def _places(folder, evaluations):
    """Where the results of each model lie."""
    one = len(evaluations) == 1
    names = [folder] if one else [folder / name for name in folder_names(list(evaluations))]
    return dict(zip(names, evaluations.values(), strict=True))


def _write_files(folder, evaluations, differences, histories, command, *, predictions, embeddings):
    metrics = {model: {name: found.metrics for name, found in of.items()} for model, of in evaluations.items()}
    one = len(evaluations) == 1
    places = _places(folder, evaluations)
    titles = {name: titled(name, found.task) for of in evaluations.values() for name, found in of.items()}
    written, pictures = ([] if one else write_comparison(folder, metrics, differences, titles)), {}
    for (model, results), place in zip(evaluations.items(), places, strict=True):
        paths, pictures[model] = _write_model(place, results, with_table=one)
        written += paths
    curves = folder / _CURVES
    names = short_names(list(evaluations))
    histories = {names[model]: history for model, history in histories.items()}
    plot_curves(next(iter(histories.values())) if len(histories) == 1 else histories, curves)
    drawn = curves.is_file()
    page = render_page(
        evaluations, pictures, differences=differences, curves=curves if drawn else None, command=command
    )
    written = [folder / "report.html", *written, *([curves] if drawn else [])]
    write_text(written[0], page)
    for place, results in places.items():
        written += _save(place, results, predictions, embeddings)
    if one:
        [(model, results)] = evaluations.items()
        written.append(_write_account(folder, model, results, command, written))
    return written


def _write_model(folder, results, *, with_table):
    """Returns (the files written, {data set: its pictures})."""
    metrics = {name: result.metrics for name, result in results.items()}
    written, pictures = [folder / "metrics.json"], {}
    write_metrics(written[0], metrics)
    if with_table:
        written.append(folder / "table.md")
        table = markdown_table({titled(name, found.task): found.metrics for name, found in results.items()})
        write_text(written[1], table + "\n")
    for name, place in zip(results, folder_names(list(results)), strict=True):
        paths, pictures[name] = _write_data_set(folder / place, results[name])
        written += paths
    return written, pictures


def _write_account(folder, model, results, command, written):
    """`evaluation.json`, for whoever publishes these figures and files: the folder may hold more, of earlier reports.
    Its command names no place on this machine."""
    given = shlex.split(command or "")
    words = [part for word in given for part in (word.split("=", 1) if word.startswith("--") else [word])]
    account = {
        "command": shlex.join(public_name(word) for word in words),
        "weights_sha256": weights_sha256(model),
        "data": {
            name: {"name": public_name(name), "split": found.split, "task": found.task, "rows": len(found.dataset)}
            for name, found in results.items()
        },
        "files": [path.relative_to(folder).as_posix() for path in written],
    }
    text = json.dumps(account, indent=2, ensure_ascii=False) + "\n"
    write_text(folder / ACCOUNT, text)
    return folder / ACCOUNT


def _write_data_set(folder, result) -> tuple[list[Path], list[Picture]]:
    pictures = draw_pictures(result, folder)
    written = [picture.path for picture in pictures]
    if result.confusion is not None:
        recalls = json.dumps(result.per_class_recall, indent=2, ensure_ascii=False) + "\n"
        write_text(folder / "per_class_recall.json", recalls)
        written.append(folder / "per_class_recall.json")
    return written, pictures


def _save(folder, results, predictions, embeddings):
    written = []
    for result, place in zip(results.values(), folder_names(list(results)), strict=True):
        if predictions:
            written.append(folder / place / "predictions.parquet")
            save_predictions(result, written[-1])
        if embeddings:
            written.append(folder / place / "embeddings.safetensors")
            save_embeddings(result, written[-1])
    return written


def _log_history(model):
    state = Path(model) / "trainer_state.json"
    try:
        history = read_json(state).get("log_history", []) if state.is_file() else []
        if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
            raise ClipScratchError(f"{state} is damaged (its log_history is no list of objects); copy it again.")
    except ValueError as error:  # what took long to measure is not lost for it
        logger.warning("%s The report has no curves of this run.", error)
        return []
    return history


def folder_names(names: list[str]) -> list[str]:
    """Names of models or data sets, which may be paths or Hub ids -> different names for folders.

    >>> folder_names(["digits", "owner/birds", "data/birds/", "x/birds"])
    ['digits', 'owner-birds', 'data-birds', 'x-birds']
    >>> folder_names(["a b", "a-b"])
    ['a-b', 'a-b-2']
    """
    taken = []
    for name in names:
        parts = re.sub(r"[^\w.]+", "-", "/".join(Path(name).parts[-2:])).strip("-.") or "data"
        number = 1
        while (parts if number == 1 else f"{parts}-{number}") in taken:
            number += 1
        taken.append(parts if number == 1 else f"{parts}-{number}")
    return taken
