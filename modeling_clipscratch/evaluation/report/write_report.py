"""Write the folder of a report: numbers, tables, plots and one HTML page; whole, or the earlier report is kept."""

import logging
import re
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ...utils.atomic_files import free_space, replacing_files, write_text
from ...utils.errors import ClipScratchError
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
    folder = open_folder(folder)
    histories = [_log_history(model) for model in evaluations]
    weights = [weights_sha256(model) for model in evaluations]
    # A report may be published, so from here on nothing names a path of this machine.
    models, data = _public(evaluations), _public(name for results in evaluations.values() for name in results)
    evaluations = {
        models[model]: {data[name]: of for name, of in results.items()} for model, results in evaluations.items()
    }
    differences = {data[name]: {models[m]: of for m, of in rest.items()} for name, rest in (differences or {}).items()}
    words = [
        part for word in shlex.split(command or "") for part in (word.split("=", 1) if word[:2] == "--" else [word])
    ]
    command = shlex.join(map(public_name, words))
    one = len(evaluations) == 1
    written, plots, stale = [Path("report.html")], {}, {Path(_CURVES)}
    with replacing_files(folder, last=ACCOUNT) as staging:

        def add(path, write, *content):
            write(staging / path, *content)
            written.append(path)

        for model, place in zip(evaluations, folder_names(list(evaluations)), strict=True):
            place, results = Path() if one else Path(place), evaluations[model]
            add(place / "metrics.json", write_json, {name: result.metrics for name, result in results.items()})
            plots[model] = {}
            for (name, result), part in zip(results.items(), folder_names(list(results)), strict=True):
                plots[model][name] = draw_plots(result, staging / place / part)
                written += [plot.path.relative_to(staging) for plot in plots[model][name]]
                stale |= {place / part / file for file in FILES}
                if result.confusion is not None:
                    add(place / part / "per_class_recall.json", write_json, result.per_class_recall)
                if predictions:
                    add(place / part / "predictions.parquet", save_predictions, result)
                if embeddings:
                    add(place / part / "embeddings.safetensors", save_embeddings, result)
        heads = {
            name: titled(name, result.task) for results in evaluations.values() for name, result in results.items()
        }
        metrics = {m: {heads[name]: of.metrics for name, of in results.items()} for m, results in evaluations.items()}
        if one:
            add(Path("table.md"), write_text, markdown_table(metrics[model]) + "\n")
        else:
            apart = {heads[name]: of for name, of in differences.items()}
            add(Path("comparison.md"), write_text, markdown_comparison(metrics, apart) + "\n")
            plain = {
                name: {m: {k: vars(d) for k, d in of.items()} for m, of in rest.items()} for name, rest in apart.items()
            }
            add(Path("comparison.json"), write_json, {"metrics": metrics, "differences": plain})
        runs = {name: log for name, log in zip(short_names(list(evaluations)).values(), histories, strict=True) if log}
        plot_curves(next(iter(runs.values())) if len(runs) == 1 else runs, staging / _CURVES)
        curves = staging / _CURVES if (staging / _CURVES).is_file() else None
        written += [Path(_CURVES)] if curves else []
        write_text(staging / "report.html", render_page(evaluations, plots, differences, curves, command))
        if one:
            about = {
                name: {"name": name, "split": result.split, "task": result.task, "rows": len(result.dataset)}
                for name, result in evaluations[model].items()
            }
            files = [path.as_posix() for path in written]
            account = {"command": command, "weights_sha256": weights[0], "data": about, "files": files}
            add(Path(ACCOUNT), write_json, account)
    for path in stale.difference(written):
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
