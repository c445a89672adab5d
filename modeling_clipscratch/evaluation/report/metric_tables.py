"""Metrics of one or more data sets go in; a text table, a Markdown table or `metrics.json` comes out."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...utils.atomic_files import write_text
from ...utils.checksums import sha256
from ...utils.names import on_one_line
from .markdown import escaped

Metrics = Mapping[str, Mapping[str, float]]  # data set -> metric -> fraction or rank, or <metric>_ci95 -> [low, high]
INTERVAL = "_ci95"
ACCOUNT = "evaluation.json"  # of a report: what was measured, of which weights, and its files


def text_table(metrics: Metrics) -> str:
    """Aligned columns for a terminal: a line a metric, a column a data set, fractions in percent.

    >>> print(text_table({"digits": {"top1": 0.9825}, "scenes": {"text_to_image_median_rank": 2.0}}))
                               digits  scenes
    top1                       98.2 %       -
    text_to_image_median_rank       -     2.0
    >>> print(text_table({"digits": {"top1": 0.9825, "top1_ci95": [0.97, 0.99]}}))
                         digits
    top1  98.2 % (97.0 to 99.0)
    """
    return aligned(metric_cells(metrics))


def markdown_table(metrics: Metrics) -> str:
    """The same as Markdown.

    >>> print(markdown_table({"digits": {"top1": 0.9825}}))
    | metric | digits |
    | --- | ---: |
    | `top1` | 98.2 % |
    """
    return as_markdown(metric_cells(metrics))


def metric_cells(metrics: Metrics) -> list[list[str]]:
    """A head with the data sets, then a line a metric, in the order of first appearance, each with its interval."""
    names = dict.fromkeys(name for found in metrics.values() for name in values_only(found))
    return [["", *metrics], *([name, *(shown_of(found, name) for found in metrics.values())] for name in names)]


def aligned(table: Sequence[Sequence[str]]) -> str:
    """Cells -> lines whose columns are aligned, the first to the left, the others to the right."""
    table = [[on_one_line(cell) for cell in line] for line in table]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    lines = (
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in table
    )
    return "\n".join(line.rstrip() for line in lines)


def as_markdown(table: Sequence[Sequence[str]]) -> str:
    """Cells, the first column metrics -> a Markdown table."""
    head, *body = table
    names = [escaped(name) for name in head[1:]]
    lines = [["metric", *names], ["---", *["---:"] * len(names)]]
    lines += [[f"`{line[0]}`", *line[1:]] for line in body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def values_only(found: Mapping[str, float]) -> dict[str, float]:
    """Metrics without their intervals."""
    return {name: value for name, value in found.items() if not name.endswith(INTERVAL)}


def shown_of(found: Mapping[str, float], name: str) -> str:
    """A metric as people read it, with its interval where there is one.

    >>> shown_of({"top1": 0.975, "top1_ci95": [0.958, 0.986]}, "top1")
    '97.5 % (95.8 to 98.6)'
    """
    if name not in found:
        return "-"
    ends = found.get(name + INTERVAL)
    value = in_its_unit(name, found[name]) + ("" if is_rank(name) else " %")
    return value if ends is None else f"{value} ({in_its_unit(name, ends[0])} to {in_its_unit(name, ends[1])})"


def in_its_unit(name: str, value: float, sign: str = "") -> str:
    """A rank as it is, a fraction in percent, without the unit."""
    return f"{value if is_rank(name) else 100 * value:{sign}.1f}"


def is_rank(name: str) -> bool:
    """Whether a metric is a rank, from 1 on, and no fraction."""
    return "rank" in name


def less_is_better(name: str) -> bool:
    """Whether the smaller value of a metric is the better one."""
    return is_rank(name) or "error" in name


def write_metrics(path: str | Path, metrics: Metrics) -> None:
    """`metrics.json`: data set -> metric -> fraction or rank, whole or not at all.

    Raises: ClipScratchError if a value is NaN or infinite, which JSON cannot hold.

    >>> write_metrics("metrics.json", {"digits": {"top1": 0.9825}})
    >>> print(Path("metrics.json").read_text().strip())
    {
      "digits": {
        "top1": 0.9825
      }
    }
    """
    write_text(path, json.dumps(metrics, indent=2, allow_nan=False) + "\n")


def weights_sha256(folder: str | Path) -> str | None:
    """Digest of a model's weights, of all shards in the order of their names; `None` where there are none."""
    shards = sorted(Path(folder).glob("*.safetensors"))
    return sha256(*shards) if shards else None
