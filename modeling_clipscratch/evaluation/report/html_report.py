"""Render the HTML page of a report; it needs no other file and no network.

Jinja escapes every name and caption. Plots are inside the page.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from ...utils.versions import versions
from ..evaluate_dataset import PROBES, Result, titled
from ..plots.all_plots import Plot
from ..plots.confusion import worst_confusions
from .metric_tables import (
    INTERVAL,
    Differences,
    is_rank,
    percent,
    short_names,
    shown_difference,
    shown_value,
    values_only,
)

HEADLINES = {
    "class": ("top1", "top5", "mean_per_class_recall"),
    "caption": tuple(f"{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5)),
}
TITLES = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "mean_per_class_recall": "mean per-class recall",
    "expected_calibration_error": "calibration error",
    "zero_shot": "zero-shot",
    "knn": "k nearest neighbours",
    "linear_probe": "linear probe",
}
JPEG_GAIN = 2  # a plot is stored as JPEG if that is so many times smaller
MOST_RECALLS = 40  # classes shown; of more, those with the lowest recall


def render_page(
    evaluations: Mapping[str, Mapping[str, Result]],
    plots: Mapping[str, Mapping[str, Sequence[Plot]]],
    differences: Differences | None = None,
    curves: Path | None = None,
    command: str | None = None,
) -> str:
    """Render the page.

    Args:
        evaluations: model -> dataset -> its result.
        plots: model -> dataset -> its plots.
        differences: dataset -> model -> metric -> difference to the first model.
        curves: PNG of the curves of the runs.
        command: the command that measured.
    """
    names = short_names(list(evaluations))
    tasks = {name: result.task for of in evaluations.values() for name, result in of.items()}
    shorter = {name: titled(short, tasks[name]) for name, short in short_names(list(tasks)).items()}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {"percent": percent, "in_words": in_words, "data_uri": as_data_uri}
    return environment.get_template("page.html").render(
        title=" and ".join(names.values()) if len(names) <= 3 else f"{len(names)} models",
        date=datetime.now().astimezone().strftime("%d %B %Y, %H:%M"),
        command=command,
        versions=versions(),
        curves=curves,
        comparisons=[
            _comparison(evaluations, name, shorter[name], names, (differences or {}).get(name, {})) for name in tasks
        ]
        if len(evaluations) > 1
        else [],
        models=[
            (
                names[model],
                model,
                [(shorter[name], name, _details(result, plots[model][name])) for name, result in of.items()],
            )
            for model, of in evaluations.items()
        ],
    )


def as_data_uri(path: Path) -> str:
    """Return a PNG as text inside a page; as JPEG where that is much smaller, as for photographs."""
    kind, content, buffer = "png", path.read_bytes(), io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(buffer, "jpeg", quality=88, subsampling=0)
    if JPEG_GAIN * buffer.tell() < len(content):
        kind, content = "jpeg", buffer.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def in_words(name: str) -> str:
    """Spell out the name of a metric or a task.

    >>> [in_words(name) for name in ("top1", "text_to_image_recall@5", "knn")]
    ['top-1 accuracy', 'text to image recall@5', 'k nearest neighbours']
    """
    return TITLES.get(name, name.replace("_", " "))


def _details(result, plots):
    """What the template shows of one model on one dataset."""
    metrics, names, probe = result.metrics, result.class_names, result.task in PROBES
    headlines = [name for name in HEADLINES[result.kind] if name in metrics]
    if metrics.get("top1") == metrics.get("mean_per_class_recall"):  # equal for classes of equal size
        headlines = [name for name in headlines if name != "mean_per_class_recall"]
    prompts = "" if probe or not names else f", {len(result.templates)} prompt{'s' * (len(result.templates) > 1)} each"
    recalls = []
    if names:
        totals, right = result.confusion.sum(1), result.confusion.diagonal()
        shares = np.divide(right, totals, out=np.full(len(names), np.nan), where=totals > 0)
        chosen = range(len(names)) if len(names) <= MOST_RECALLS else np.argsort(shares, kind="stable")[:MOST_RECALLS]
        recalls = [(names[n], int(totals[n]), float(shares[n]) if totals[n] else None) for n in chosen]
    return {
        "result": result,
        "task": in_words(result.task) + (", fitted to the training split" if probe else ""),
        "texts": f"{len(names):,} classes{prompts}" if names else f"{len(result.text_embeds):,} captions",
        "headlines": [
            (name, *shown_value(metrics, name), _track(metrics, name, 0.0, 1.0), _chance(name, result))
            for name in headlines
        ],
        "metrics": [(name, *shown_value(metrics, name)) for name in values_only(metrics)],
        "recalls": recalls,
        "recalls_left_out": max(0, len(names or ()) - MOST_RECALLS),
        "confusions": worst_confusions(result.confusion, names) if names else [],
        "plots": plots,
    }


def _comparison(evaluations, dataset, short, names, differences):
    """What the template shows of all models on one dataset; a metric is a row, with the same scale for all models."""
    by_model = {model: of[dataset].metrics for model, of in evaluations.items() if dataset in of}
    rows = []
    for name in dict.fromkeys(name for metrics in by_model.values() for name in values_only(metrics)):
        ends = [end for metrics in by_model.values() if name in metrics
                for end in (metrics[name], *metrics.get(name + INTERVAL, []))]  # fmt: skip
        step = 1.0 if is_rank(name) else 0.05
        low, high = np.floor(min(ends) / step) * step, np.ceil(max(ends) / step) * step
        cells = []
        for model, metrics in by_model.items():
            difference = differences.get(model, {}).get(name)
            shown = None
            if difference is not None:
                value, interval, verdict = (
                    part.replace("-", "\N{MINUS SIGN}") for part in shown_difference(name, difference)
                )
                shown = value + ("" if is_rank(name) else " points"), interval, verdict
            track = _track(metrics, name, low, max(high, low + step)) if name in metrics else None
            cells.append((*shown_value(metrics, name), track, shown))
        rows.append((name, cells))
    return {"name": short, "models": [names[model] for model in by_model], "rows": rows, "tested": bool(differences)}


def _chance(metric, result):
    """What guessing would give, as a fraction."""
    candidates = len(result.class_names or result.dataset)
    first = int(metric.split("@")[1]) if "@" in metric else 5 if metric == "top5" else 1
    return min(1.0, first / candidates)


def _track(metrics, name, low, high):
    """Place of a value, and start and width of its interval, on a line from `low` to `high`, in per cent of it."""
    ends = metrics.get(name + INTERVAL, [metrics[name]] * 2)
    value, left, right = (100 * float(np.clip((end - low) / (high - low), 0, 1)) for end in (metrics[name], *ends))
    return round(value, 2), round(left, 2), round(right - left, 2)
