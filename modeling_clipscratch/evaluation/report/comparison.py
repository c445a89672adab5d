"""Metrics of several models, and their differences to the first, go in; tables, CSV and JSON come out.

A difference is that of `intervals.py`: `.value`, `.low`, `.high` (a model minus the first) and `.p_value`.
"""

import csv
import json
from collections.abc import Mapping
from pathlib import Path

from ...utils.atomic_files import write_text, write_whole
from .markdown import escaped
from .metric_tables import INTERVAL, Metrics, aligned, as_markdown, in_its_unit, less_is_better, shown_of, values_only

ByModel = Mapping[str, Metrics]  # model -> data set -> metric -> value
Differences = Mapping[str, Mapping[str, Mapping[str, object]]]  # data set -> model -> metric -> difference
SURE = 0.05  # p-values from here on may be chance


def text_comparison(metrics: ByModel, differences: Differences | None = None) -> str:
    """A table a data set for a terminal: metrics down, models across, each model's difference after it.

    >>> print(text_comparison({"a": {"digits": {"top1": 0.5}}, "b": {"digits": {"top1": 0.75}}}))
    digits
               a       b
    top1  50.0 %  75.0 %
    """
    names = data_sets(metrics)
    return "\n\n".join(f"{name}\n{aligned(comparison_cells(metrics, name, differences))}" for name in names)


def markdown_comparison(
    metrics: ByModel, differences: Differences | None = None, titles: Mapping[str, str] | None = None
) -> str:
    """The same as Markdown; `titles` are the heads of data sets that are not to have their name there."""
    tables = (
        f"## {escaped((titles or {}).get(name, name))}\n\n{as_markdown(comparison_cells(metrics, name, differences))}"
        for name in data_sets(metrics)
    )
    return "\n\n".join(tables)


def comparison_cells(metrics: ByModel, data_set: str, differences: Differences | None = None) -> list[list[str]]:
    """The table of one data set: a head, then a line a metric."""
    found = {model: of.get(data_set, {}) for model, of in metrics.items()}
    apart = (differences or {}).get(data_set, {})
    short = short_names(list(found))
    head = [""]
    for model in found:
        head += [short[model], *([f"{short[model]} - {short[next(iter(found))]}"] if model in apart else [])]
    lines = []
    for name in dict.fromkeys(name for values in found.values() for name in values_only(values)):
        line = [name]
        for model, values in found.items():
            line.append(shown_of(values, name))
            if model in apart:
                difference = apart[model].get(name)
                line.append("-" if difference is None else shown_difference(name, difference))
        lines.append(line)
    return [head, *lines]


def shown_difference(name: str, difference) -> str:
    """A difference with its interval, its p-value and what they say, in percentage points or ranks.

    >>> from types import SimpleNamespace
    >>> shown_difference("top1", SimpleNamespace(value=0.02, low=-0.01, high=0.05, p_value=0.2))
    '+2.0 (-1.0 to +5.0), p 0.20, may be chance'
    """
    value, low, high = (in_its_unit(name, end, "+") for end in (difference.value, difference.low, difference.high))
    return f"{value} ({low} to {high}), {shown_p(difference.p_value)}, {verdict(name, difference)}"


def shown_p(value: float) -> str:
    """
    >>> [shown_p(0.2), shown_p(0.012), shown_p(0.0004)]
    ['p 0.20', 'p 0.012', 'p < 0.001']
    """
    if value < 0.001:
        return "p < 0.001"
    return f"p {value:.2f}" if value >= 0.1 else f"p {value:.3f}"


def verdict(name: str, difference) -> str:
    """`better` or `worse` where the interval leaves 0 out and p is below 0.05, else `may be chance`.

    >>> from types import SimpleNamespace
    >>> verdict("image_to_text_median_rank", SimpleNamespace(value=2.0, low=1.0, high=3.0, p_value=0.01))
    'worse'
    """
    if difference.p_value >= SURE or difference.low <= 0 <= difference.high:
        return "may be chance"
    return "better" if (difference.value < 0) == less_is_better(name) else "worse"


def write_comparison(
    folder: str | Path,
    metrics: ByModel,
    differences: Differences | None = None,
    titles: Mapping[str, str] | None = None,
) -> list[Path]:
    """Writes `comparison.csv` (a line a data set, model and metric), `comparison.json` and `comparison.md`."""
    folder = Path(folder)

    def write_csv(path):
        with open(path, "w", newline="", encoding="utf-8", errors="replace") as file:
            writer = csv.writer(file)
            writer.writerow(["data_set", "model", "metric", "value", "low", "high"])
            for data_set in data_sets(metrics):
                for model, of in metrics.items():
                    found = of.get(data_set, {})
                    for name, value in values_only(found).items():
                        writer.writerow([data_set, model, name, value, *found.get(name + INTERVAL, ["", ""])])

    numbers = {"metrics": metrics, "differences": _plain(differences or {})}
    text = json.dumps(numbers, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    table = markdown_comparison(metrics, differences, titles) + "\n"
    write_whole(folder / "comparison.csv", write_csv)
    write_text(folder / "comparison.json", text)
    write_text(folder / "comparison.md", table)
    return [folder / f"comparison.{kind}" for kind in ("csv", "json", "md")]


def data_sets(metrics: ByModel) -> list[str]:
    """Every data set that any model was measured on."""
    return list(dict.fromkeys(name for of in metrics.values() for name in of))


def short_names(names: list[str]) -> dict[str, str]:
    """Paths and Hub ids -> their last part where that tells them apart, else as much as it takes.

    >>> short_names(["runs/a", "owner/b"])
    {'runs/a': 'a', 'owner/b': 'b'}
    >>> short_names(["one/clip/", "two/clip"])
    {'one/clip/': 'one/clip', 'two/clip': 'two/clip'}
    """
    parts = {name: Path(name).parts or (Path(name).resolve().name,) for name in names}  # of "." there are none
    for length in range(1, max(map(len, parts.values())) + 1):
        short = {name: "/".join(of[-length:]) for name, of in parts.items()}
        if len(set(short.values())) == len(names):
            return short
    return {name: name for name in names}


def _plain(differences):
    return {
        data_set: {model: {name: vars(found) for name, found in of.items()} for model, of in models.items()}
        for data_set, models in differences.items()
    }
