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
from ..evaluate_dataset import Result
from ..plots.all_plots import Plot
from ..plots.class_plots import worst_confusions
from .metric_tables import INTERVAL, Differences, is_rank, percent, shown_difference, shown_value, values_only

TITLES = {"top1": "top-1 accuracy", "top5": "top-5 accuracy", "zero_shot": "zero-shot classification"}
JPEG_GAIN = 2  # a plot is stored as JPEG if that is so many times smaller


def render_page(
    evaluations: Mapping[str, Mapping[str, Result]],
    plots: Mapping[str, Mapping[str, Sequence[Plot]]],
    differences: Differences,
    command: str,
) -> str:
    """Render the page of results and plots by model and dataset; `command` is the one that measured."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {"percent": percent, "in_words": in_words, "data_uri": as_data_uri}
    return environment.get_template("page.html").render(
        models=list(evaluations),
        date=datetime.now().astimezone().strftime("%d %B %Y, %H:%M"),
        command=command,
        versions=versions(),
        tables=[
            (name, result, _rows([of[name].metrics for of in evaluations.values()], differences.get(name, {})))
            for name, result in next(iter(evaluations.values())).items()
        ],
        details=[
            (model, name, result, plots[model][name])
            for model, of in evaluations.items()
            for name, result in of.items()
        ],
        confusions=worst_confusions,
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

    >>> in_words("top1"), in_words("text_to_image_recall@5")
    ('top-1 accuracy', 'text to image recall@5')
    """
    return TITLES.get(name, name.replace("_", " "))


def _rows(models, differences):
    """[(metric, cells)], a cell of each model: value, interval, their places on the row's scale, difference."""
    rows = []
    for name in values_only(models[0]):
        ends = [end for metrics in models for end in (metrics[name], *metrics.get(name + INTERVAL, []))]
        step = 1.0 if is_rank(name) else 0.05
        low = np.floor(min(ends) / step) * step
        scale = low, max(np.ceil(max(ends) / step) * step, low + step)
        cells = []
        for metrics, apart in zip(models, [{}, *differences.values()], strict=False):
            difference = shown_difference(name, apart[name]) if name in apart else None
            cells.append((*shown_value(metrics, name), _track(metrics, name, *scale), difference))
        rows.append((name, cells))
    return rows


def _track(metrics, name, low, high):
    """Place of a value, and start and width of its interval, on a line from `low` to `high`, in per cent of it."""
    ends = metrics.get(name + INTERVAL, [metrics[name]] * 2)
    value, left, right = (round(float(100 * (end - low) / (high - low)), 2) for end in (metrics[name], *ends))
    return value, left, right - left
