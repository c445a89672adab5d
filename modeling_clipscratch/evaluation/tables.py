"""Metrics of one or more data sets go in; a text table, a Markdown table or `metrics.json` comes out."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

Metrics = Mapping[str, Mapping[str, float]]  # data set -> metric -> fraction or rank


def text_table(metrics: Metrics) -> str:
    """Aligned columns for a terminal: a line a metric, a column a data set, fractions in percent.

    >>> print(text_table({"digits": {"top1": 0.9825}, "scenes": {"text_to_image_median_rank": 2.0}}))
                               digits  scenes
    top1                       98.2 %       -
    text_to_image_median_rank       -     2.0
    """
    table = _cells(metrics)
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    lines = (
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in table
    )
    return "\n".join(line.rstrip() for line in lines)


def markdown_table(metrics: Metrics) -> str:
    """The same as Markdown.

    >>> print(markdown_table({"digits": {"top1": 0.9825}}))
    | metric | digits |
    | --- | ---: |
    | `top1` | 98.2 % |
    """
    head, *body = _cells(metrics)
    names = [name.replace("|", "\\|") for name in head[1:]]
    lines = [["metric", *names], ["---", *["---:"] * len(names)]]
    lines += [[f"`{line[0]}`", *line[1:]] for line in body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_metrics(path: str | Path, metrics: Metrics) -> None:
    """`metrics.json`: data set -> metric -> fraction or rank, whole or not at all.

    Raises: ValueError if a value is NaN or infinite, which JSON cannot hold.
    """
    text = json.dumps(metrics, indent=2, allow_nan=False) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_whole(path: str | Path, write: Callable[[Path], object]) -> None:
    """Calls `write(temporary path)` and moves the outcome to `path`: a reader sees the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    try:
        # mkstemp makes files that only their owner may read; a report is for others too.
        mask = os.umask(0)
        os.umask(mask)
        os.fchmod(handle, 0o666 & ~mask)
        os.close(handle)
        write(Path(name))
        with open(name, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _cells(metrics):
    """Table of strings: a head with the data sets, then a line a metric, in the order of first appearance."""
    names = list(dict.fromkeys(name for found in metrics.values() for name in found))
    body = [
        [name, *(_shown(name, found[name]) if name in found else "-" for found in metrics.values())] for name in names
    ]
    return [["", *metrics], *body]


def _shown(name, value):
    if isinstance(value, (list, tuple)):  # an interval, `<name>_ci95`
        return " to ".join(_shown(name, end) for end in value)
    return f"{value:.1f}" if "rank" in name else f"{100 * value:.1f} %"
