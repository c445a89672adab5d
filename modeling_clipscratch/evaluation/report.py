"""Results by data set go in; a folder with numbers, tables and pictures comes out, each file whole or not at all."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from .evaluate_rows import Result
from .examples import plot_examples
from .plots import plot_confusion
from .tables import markdown_table, write_metrics, write_whole


def open_folder(folder: str | Path) -> Path:
    """Makes the folder, before an evaluation that may take long. Raises: ValueError if that cannot be done."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"output_dir={folder} cannot be made ({error.strerror}); choose another folder.") from error
    return Path(folder)


def write_report(folder: str | Path, results: Mapping[str, Result]) -> list[Path]:
    """Writes `metrics.json` and `table.md`, and for each data set a folder of its own.

    That one has `examples.png` and, for class data, `confusion.png` and `per_class_recall.json`.

    Args:
        folder: made where it is not there; files of an earlier report are replaced.
        results: data set as the user named it -> its result.
    Returns: the files written.
    """
    folder = open_folder(folder)
    metrics = {name: result.metrics for name, result in results.items()}
    written = [folder / "metrics.json", folder / "table.md"]
    write_metrics(written[0], metrics)
    write_whole(written[1], lambda path: path.write_text(markdown_table(metrics) + "\n", encoding="utf-8"))
    for name, place in zip(results, folder_names(list(results)), strict=True):
        written += _write_data_set(folder / place, results[name])
    return written


def _write_data_set(folder, result):
    written = [folder / "examples.png"]
    plot_examples(result, written[0])
    if result.confusion is not None:
        plot_confusion(result.confusion, result.class_names, folder / "confusion.png")
        recalls = json.dumps(result.per_class_recall, indent=2, ensure_ascii=False) + "\n"
        write_whole(folder / "per_class_recall.json", lambda path: path.write_text(recalls, encoding="utf-8"))
        written += [folder / "confusion.png", folder / "per_class_recall.json"]
    return written


def folder_names(names: list[str]) -> list[str]:
    """Names of data sets, which may be paths or Hub ids -> different names for folders.

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
