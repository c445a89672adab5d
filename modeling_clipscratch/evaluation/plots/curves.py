"""Plot the training log of a run."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator

from .figures import BOLD, COLOURS, DASHES, MARKERS, new_figure, plain_legend, save_figure, tidy

FEW = 30  # points; markers of more run together
# Title of a panel, pattern of the keys of the log that it shows, label of its y axis.
PANELS = (
    ("loss", r"(?:eval_(?:.+_)?)?loss(?:_floor)?", "nats"),
    ("zero-shot accuracy", r"eval_(?:.+_)?(?:top1|top5|mean_per_class_recall)", "%"),
    ("image to text recall", r"eval_(?:.+_)?image_to_text_recall@\d+", "%"),
    ("text to image recall", r"eval_(?:.+_)?text_to_image_recall@\d+", "%"),
    ("in-batch accuracy", r"(?!eval_).*accuracy", "%"),
    ("learning rate", r"learning_rate(?:_.+)?", ""),
    ("temperature", r"temperature", "exp(-logit_scale)"),
)


def plot_curves(log_history: Sequence[Mapping], path: str | Path) -> None:
    """Plot one panel for each quantity that the log has. Without any, no file is written.

    Args:
        log_history: of a `trainer_state.json`. Entries without a `step` are ignored. With `images_seen` the x axis says
            how many images a step has.
        path: of the PNG.
    """
    panels = [(title, lines, unit) for title, pattern, unit in PANELS if (lines := _lines(log_history, pattern))]
    if not panels:  # the run was shorter than logging_steps and had no evaluation
        return
    rows = math.ceil(len(panels) / 3)
    figure = new_figure(4.2 * math.ceil(len(panels) / rows), 3.1 * rows)
    seen = [entry["images_seen"] / entry["step"] for entry in log_history if "images_seen" in entry]
    last = max(steps[-1] for _, lines, _ in panels for _, steps, _ in lines)
    for row, band in enumerate(figure.subfigures(rows, 1, squeeze=False)[:, 0]):
        of_row = panels[len(panels) * row // rows : len(panels) * (row + 1) // rows]  # which fill it
        for axes, (title, lines, unit) in zip(band.subplots(1, len(of_row), squeeze=False)[0], of_row, strict=True):
            _draw_lines(axes, lines, unit)
            axes.set_title(title, loc="left", **BOLD)
            if len(lines) > 1 or title not in ("learning rate", "temperature"):
                plain_legend(axes, handlelength=2.6)
            axes.set(xlabel=f"step (of {seen[-1]:,.0f} images)" if seen else "step", xlim=(0, 1.02 * last))
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            tidy(axes)
    save_figure(figure, path)


def _draw_lines(axes, lines, unit):
    for place, (key, steps, values) in enumerate(lines):
        style = {"color": COLOURS[place % len(COLOURS)], "linestyle": DASHES[place % len(DASHES)]}
        style["marker"] = MARKERS[place % len(MARKERS)] if len(steps) <= FEW else None
        # Each line is thinner than those below it, so that a line on top of an equal one hides none.
        width = min(4.0, 1.5 + 0.8 * (len(lines) - 1 - place))
        values = 100 * values if unit == "%" else values
        axes.plot(steps, values, label=key.replace("_", " "), linewidth=width, markersize=2 + width, **style)
    axes.set_ylabel(unit)
    axes.margins(y=0.2)  # room for the legend
    axes.ticklabel_format(axis="y", scilimits=(-2, 4))  # of learning rates, a power of ten above the axis


def _lines(log_history, pattern):
    """[(key, steps, values)] of the keys that match, by their k and first appearance."""
    keys = dict.fromkeys(key for entry in log_history for key in entry if re.fullmatch(pattern, key))
    lines = []
    for key in sorted(keys, key=lambda key: [int(n) for n in re.findall(r"@(\d+)", key)]):
        # A resumed run logs some steps again; the later entry counts.
        points = {entry["step"]: float(entry[key]) for entry in log_history if "step" in entry and key in entry}
        points = {step: value for step, value in sorted(points.items()) if math.isfinite(value)}
        if points:
            lines.append((key, np.array(list(points)), np.array(list(points.values()))))
    return lines
