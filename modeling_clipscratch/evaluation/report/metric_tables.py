"""Write metrics of models on datasets as tables of text and as JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ...utils.atomic_files import write_text
from ...utils.checksums import sha256
from ...utils.names import is_local, on_one_line
from ..metrics.intervals import Difference

Differences = Mapping[str, Mapping[str, Mapping[str, Difference]]]  # dataset -> model -> metric -> minus the first
INTERVAL = "_ci95"
ACCOUNT = "evaluation.json"  # of a report: what was measured, of which weights, and its files
SURE = 0.05  # larger p-values may be chance


def text_table(metrics: Mapping[str, Mapping[str, float]], differences: Mapping[str, Mapping] | None = None) -> str:
    """Align a table for a terminal: a line for each metric, a column for each dataset, or model.

    `differences` has for some heads the differences to the first, which get columns of their own.

    >>> print(text_table({"digits": {"top1": 0.9825, "top1_ci95": [0.97, 0.99]}, "scenes": {"median_rank": 2.0}}))
                                digits  scenes
    top1         98.2 % (97.0 to 99.0)       -
    median_rank                      -     2.0
    """
    first = next(iter(metrics))
    names = list(dict.fromkeys(name for column in metrics.values() for name in values_only(column)))
    columns = [["", *names]]
    for head, column in metrics.items():
        columns.append([head, *(shown_of(column, name) for name in names)])
        if apart := (differences or {}).get(head):
            shown = (
                "{} ({}), {}".format(*shown_difference(name, apart[name])) if name in apart else "-" for name in names
            )
            columns.append([f"{head} - {first}", *shown])
    columns = [[on_one_line(cell) for cell in column] for column in columns]
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for name, *cells in zip(*columns, strict=True):
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *aligned]).rstrip())
    return "\n".join(lines)


def rows_of_page(models: Sequence[Mapping[str, float]], differences: Mapping[str, Mapping]) -> list[tuple]:
    """Return [(metric, cells)]; a cell of a model: value, interval, their places in % of its scale, difference."""
    rows = []
    for name in values_only(models[0]):
        spans = [(of[name], *of.get(name + INTERVAL, [of[name]] * 2)) for of in models]  # value, low, high
        step = 1.0 if is_rank(name) else 0.05
        least = np.floor(np.min(spans) / step) * step
        width = max(np.ceil(np.max(spans) / step) * step - least, step)
        cells = []
        for metrics, span, apart in zip(models, spans, [{}, *differences.values()], strict=False):
            at, left, right = (round(float(100 * (end - least) / width), 2) for end in span)
            difference = shown_difference(name, apart[name]) if name in apart else None
            cells.append((*shown_value(metrics, name), (at, left, right - left), difference))
        rows.append((name, cells))
    return rows


def shown_difference(name: str, difference: Difference) -> tuple[str, str, str]:
    """Return a difference in percentage points or ranks, its interval with the p-value, and what they say.

    `better` or `worse` where the interval excludes 0 and p is below 0.05, else `may be chance`.

    >>> shown_difference("top1", Difference(value=0.02, low=-0.01, high=0.05, p_value=0.2))
    ('+2.0', '-1.0 to +5.0, p 0.20', 'may be chance')
    """
    value, low, high = (_number(name, end, "+") for end in (difference.value, difference.low, difference.high))
    p_value, digits = difference.p_value, 2 if difference.p_value >= 0.1 else 3
    shown = "p < 0.001" if p_value < 0.001 else f"p {p_value:.{digits}f}"
    verdict = "may be chance"
    if p_value < SURE and not difference.low <= 0 <= difference.high:
        less_is_better = is_rank(name) or "error" in name
        verdict = "better" if (difference.value < 0) == less_is_better else "worse"
    return value, f"{low} to {high}, {shown}", verdict


def values_only(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return metrics without their intervals."""
    return {name: value for name, value in metrics.items() if not name.endswith(INTERVAL)}


def shown_value(metrics: Mapping[str, float], name: str) -> tuple[str, str]:
    """Return a metric and its interval, in per cent or ranks; empty where there is none."""
    if name not in metrics:
        return "", ""
    ends = metrics.get(name + INTERVAL)
    value = f"{metrics[name]:.1f}" if is_rank(name) else percent(metrics[name])
    return value, "" if ends is None else f"{_number(name, ends[0])} to {_number(name, ends[1])}"


def shown_of(metrics: Mapping[str, float], name: str) -> str:
    """Return a metric with its interval in parentheses, `-` where there is none."""
    value, interval = shown_value(metrics, name)
    return f"{value} ({interval})" if interval else value or "-"


def percent(share: float, digits: int = 1) -> str:
    """Write a fraction in per cent, such as `98.2 %`, as tables and pages do."""
    return f"{100 * share:.{digits}f} %"


def is_rank(name: str) -> bool:
    """Return whether a metric is a rank, from 1 on, and not a fraction."""
    return "rank" in name


def public_names(names: Sequence[str]) -> dict[str, str]:
    """Shorten paths to their last part, or to as many parts as make all names differ; Hub ids stay.

    >>> public_names(["./runs/one/clip/", "./runs/two/clip", "owner/clip"])
    {'./runs/one/clip/': 'one/clip', './runs/two/clip': 'two/clip', 'owner/clip': 'owner/clip'}
    """
    parts = {name: Path(name).absolute().parts if is_local(name) else (name,) for name in names}
    for length in range(1, max(map(len, parts.values())) + 1):
        short = {name: "/".join(of[-length:]) for name, of in parts.items()}
        if len(set(short.values())) == len(names):
            break
    return short


def write_json(path: str | Path, values: object) -> None:
    """Write JSON, whole or not at all; raise ValueError for NaN and infinity, which it cannot hold."""
    write_text(path, json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False, default=vars) + "\n")


def weights_sha256(folder: str | Path) -> str | None:
    """Return the digest of a model's weights, of all shards in the order of their names; `None` if there are none."""
    shards = sorted(Path(folder).glob("*.safetensors"))
    return sha256(*shards) if shards else None


def _number(name, value, sign=""):
    return f"{round(value if is_rank(name) else 100 * value, 1) + 0.0:{sign}.1f}"  # no negative zero
