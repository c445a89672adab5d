"""Write the folder of a report: numbers, tables, plots and one HTML page; whole, or the earlier report is kept."""

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
from ..plots.all_plots import FILES, draw_plots
from ..plots.curves import plot_curves
from .html_report import render_page
from .metric_tables import (
    ACCOUNT,
    Differences,
    markdown_comparison,
    markdown_table,
    short_names,
    weights_sha256,
    write_json,
)
from .save_results import save_embeddings, save_predictions

logger = logging.getLogger(__name__)

_CURVES = "curves.png"
_LEAST_SPACE = 2**20  # bytes of a small report


def open_folder(folder: str | Path) -> Path:
    """Check that a report can be written, before a long evaluation; leave nothing behind.

    Raises:
        ClipScratchError: If the folder cannot be written to, the disk is full, or the folder holds a model.
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
            f"output_dir={folder} holds a model with its own metrics; choose {Path(folder) / 'report'}."
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
    """Write `report.html`, a page that needs no other file, and everything that it shows.

    One model: `metrics.json`, `evaluation.json` (what was measured, of which weights, by which command; the files of
    the report), `table.md` and a folder for each dataset with its plots and, for class data, `per_class_recall.json`.
    Several models: `comparison.json`, `comparison.md`, and a folder for each model with its `metrics.json` and plots.
    `curves.png` shows the models that are run folders.

    Args:
        folder: made where it is missing; files of an earlier report are replaced.
        evaluations: model as the user named it -> dataset as the user named it -> its result.
        differences: dataset -> model -> metric -> difference to the first model.
        command: the command that measured, for the page.
        predictions: write `predictions.parquet` beside the plots of each dataset.
        embeddings: write `embeddings.safetensors` there.

    Returns:
        The written files, the page first.
    """
    folder, one = open_folder(folder), len(evaluations) == 1
    histories = [_log_history(model) for model in evaluations]
    weights = weights_sha256(next(iter(evaluations))) if one else None
    # A report may be published, so from here on nothing names a path of this machine.
    models, data = _public(evaluations), _public(name for found in evaluations.values() for name in found)
    evaluations = {
        models[model]: {data[name]: of for name, of in found.items()} for model, found in evaluations.items()
    }
    differences = {
        data[name]: {models[m]: of for m, of in found.items()} for name, found in (differences or {}).items()
    }
    words = [
        part for word in shlex.split(command or "") for part in (word.split("=", 1) if word[:2] == "--" else [word])
    ]
    command = shlex.join(map(public_name, words)) or None
    heads = {name: titled(name, found.task) for of in evaluations.values() for name, found in of.items()}
    metrics = {model: {name: found.metrics for name, found in of.items()} for model, of in evaluations.items()}
    by_head = {model: {heads[name]: of for name, of in found.items()} for model, found in metrics.items()}
    model_places = [Path() if one else Path(name) for name in folder_names(list(evaluations))]
    places = {}  # model -> dataset -> folder, below the report's
    for (model, results), place in zip(evaluations.items(), model_places, strict=True):
        places[model] = {name: place / part for name, part in zip(results, folder_names(list(results)), strict=True)}
    written, plots = [Path("report.html")], {}
    with replacing_files(folder, last=ACCOUNT) as staging:

        def add(path, write, *content):
            write(staging / path, *content)
            written.append(path)

        for (model, results), place in zip(evaluations.items(), model_places, strict=True):
            add(place / "metrics.json", write_json, metrics[model])
            plots[model] = {}
            for name, result in results.items():
                inside = places[model][name]
                plots[model][name] = draw_plots(result, staging / inside)
                written += [plot.path.relative_to(staging) for plot in plots[model][name]]
                if result.confusion is not None:
                    add(inside / "per_class_recall.json", write_json, result.per_class_recall)
                if predictions:
                    add(inside / "predictions.parquet", lambda path, of=result: save_predictions(of, path))
                if embeddings:
                    add(inside / "embeddings.safetensors", lambda path, of=result: save_embeddings(of, path))
        if one:
            add(Path("table.md"), write_text, markdown_table(*by_head.values()) + "\n")
        else:
            apart = {name: {m: {k: vars(d) for k, d in of.items()} for m, of in found.items()}
                     for name, found in differences.items()}  # fmt: skip
            add(Path("comparison.json"), write_json, {"metrics": metrics, "differences": apart})
            apart = {heads[name]: of for name, of in differences.items()}
            add(Path("comparison.md"), write_text, markdown_comparison(by_head, apart) + "\n")
        short = short_names(list(evaluations)).values()
        histories = {name: history for name, history in zip(short, histories, strict=True) if history}
        plot_curves(next(iter(histories.values())) if len(histories) == 1 else histories, staging / _CURVES)
        curves = staging / _CURVES if (staging / _CURVES).is_file() else None
        written += [Path(_CURVES)] if curves else []
        write_text(staging / "report.html", render_page(evaluations, plots, differences, curves, command))
        if one:
            about = {
                name: {"name": name, "split": of.split, "task": of.task, "rows": len(of.dataset)}
                for found in evaluations.values()
                for name, of in found.items()
            }
            files = [path.as_posix() for path in written]
            account = {"command": command or "", "weights_sha256": weights, "data": about, "files": files}
            add(Path(ACCOUNT), write_json, account)
    ours = {path / name for of in places.values() for path in of.values() for name in FILES} | {Path(_CURVES)}
    for path in ours.difference(written):
        (folder / path).unlink(missing_ok=True)  # an earlier report's
    return [folder / path for path in written]


def _public(names):
    """Name -> Hub id, or last part of a path; as many parts as make the names differ."""
    public = {name: public_name(name) for name in names}
    return public if len(set(public.values())) == len(public) else short_names(list(public))


def _log_history(model):
    state = Path(model) / "trainer_state.json"
    try:
        history = read_json(state).get("log_history", []) if state.is_file() else []
        if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
            raise ClipScratchError(f"{state} is damaged (its log_history is not a list of objects); copy it again.")
    except ClipScratchError as error:  # the measured figures are not lost for it
        logger.warning("%s The report has no curves of this run.", error)
        return []
    return history


def folder_names(names: list[str]) -> list[str]:
    """Turn names of models or datasets, which may be paths or Hub ids, into different names for folders.

    >>> folder_names(["digits", "owner/birds", "data/birds/", "a b", "a-b"])
    ['digits', 'owner-birds', 'data-birds', 'a-b', 'a-b-2']
    """
    taken = []
    for name in names:
        part = re.sub(r"[^\w.]+", "-", "/".join(Path(name).parts[-2:])).strip("-.") or "data"
        number = 1
        while (part if number == 1 else f"{part}-{number}") in taken:
            number += 1
        taken.append(part if number == 1 else f"{part}-{number}")
    return taken
