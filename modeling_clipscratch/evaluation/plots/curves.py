"""Plot the training logs of one or several runs."""

import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from .figures import COLOURS, DASHES, MARKERS, look, new_figure, plain_legend, save_figure, shortened, tidy

logger = logging.getLogger(__name__)

FEW = 30  # points; markers of more run together
# Title of a panel, pattern of the keys of the log that it shows, label of its y axis.
PANELS = (
    ("loss", r"(?:eval_(?:.+_)?)?loss(?:_floor)?", "nats"),
    ("zero-shot accuracy", r"eval_(?:.+_)?(?:top1|top5|mean_per_class_recall)", "%"),
    ("image to text recall", r"eval_(?:.+_)?image_to_text_recall@\d+", "%"),
    ("text to image recall", r"eval_(?:.+_)?text_to_image_recall@\d+", "%"),
    ("in-batch accuracy", r"(?!eval_).*accuracy", "%"),
    ("learning rate", r"learning_rate(?:_.+)?", ""),
    ("temperature", r"temperature|logit_scale", "exp(-logit_scale)"),
)
_LOSSES = {"loss": "training", "loss_floor": "floor of the batch", "eval_loss": "evaluation"}


def plot_curves(log_history: Sequence[Mapping] | Mapping[str, Sequence[Mapping]], path: str | Path) -> None:
    """Plot one panel for each quantity that the log has. Without any, no file is written.

    Args:
        log_history: `log_history` of a `trainer_state.json`, or {run name: the same} for several runs. Entries without
            a `step` are ignored. With `images_seen` the x axis says how many images a step has.
        path: of the PNG.
    """
    runs = dict(log_history) if isinstance(log_history, Mapping) else {"": log_history}
    panels = []
    for title, pattern, unit in PANELS:
        lines = [(run, *line) for run, history in runs.items() for line in _lines(history, pattern)]
        panels += [(title, lines, unit)] if lines else []
    if not panels:
        logger.info("no curves are drawn: the run was shorter than logging_steps and had no evaluation.")
        return
    rows = math.ceil(len(panels) / 3)
    rows_of_panels = [panels[len(panels) * row // rows : len(panels) * (row + 1) // rows] for row in range(rows)]
    figure = new_figure(4.2 * max(map(len, rows_of_panels)), 3.1 * rows)
    grid = figure.add_gridspec(rows, 6)  # 1, 2 or 3 panels fill a row
    label, last = _step_label(runs.values()), max(line[2][-1] for _, lines, _ in panels for line in lines)
    for row, of_row in enumerate(rows_of_panels):
        wide = 6 // len(of_row)
        for place, (title, lines, unit) in enumerate(of_row):
            axes = figure.add_subplot(grid[row, place * wide : (place + 1) * wide])
            _panel(axes, title, lines, unit, list(runs))
            axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
            axes.set_xlabel(label)
            axes.set_xlim(0, 1.02 * last)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            tidy(axes)
    if len(runs) > 1:
        handles = [Line2D([], [], linewidth=1.6, markersize=5, **look(number)) for number in range(len(runs))]
        names = [shortened(name, 40) for name in runs]
        plain_legend(figure, handles, names, loc="outside upper left", ncols=3, handlelength=3)
    save_figure(figure, path)


def _panel(axes, title, lines, unit, runs):
    """Draw the lines; of one run each line has a colour, of several runs each run has one and each key a dash."""
    keys = list(dict.fromkeys(key for _, key, _, _ in lines))
    for number, (run, key, steps, values) in enumerate(lines):
        values = np.exp(-values) if key == "logit_scale" else values * (100 if unit == "%" else 1)
        place = keys.index(key)
        if len(runs) == 1:
            marker = MARKERS[place % len(MARKERS)] if len(steps) <= FEW else None
            style = {"color": COLOURS[place % len(COLOURS)], "marker": marker}
        else:
            style = {**look(runs.index(run)), "markevery": max(1, len(steps) // 8)}
        # Each line is thinner than those below it, so that a line on top of an equal one hides none.
        width = min(4.0, 1.5 + 0.8 * (len(lines) - 1 - number))
        dash = DASHES[place % len(DASHES)]
        axes.plot(
            steps, values, label=_label(key, title), linestyle=dash, linewidth=width, markersize=2 + width, **style
        )
    axes.set_ylabel(unit)
    axes.ticklabel_format(axis="y", scilimits=(-2, 4))  # of learning rates, a power of ten above the axis
    if unit == "%":
        axes.set_ylim(*_percent_limits(axes.lines))
    if len(runs) > 1 and len(keys) > 1:
        handles = [Line2D([], [], color="0.35", linestyle=DASHES[n % len(DASHES)]) for n in range(len(keys))]
        plain_legend(axes, handles, [_label(key, title) for key in keys], handlelength=2.6)
    elif len(keys) > 1 or (len(runs) == 1 and title not in ("learning rate", "temperature")):
        plain_legend(axes, handlelength=2.6)


def _percent_limits(lines):
    """From 0 if a value is below 20 %, else closer; at least 4 points, and not far beyond 100."""
    values = np.concatenate([line.get_ydata() for line in lines])
    low, high = float(values.min()), float(values.max())
    margin = max(2.0, 0.1 * (high - low))
    low = -3.0 if low < 20 else low - margin
    return low, min(high + margin, 100 + 0.06 * (100 - low))


def _lines(log_history, pattern):
    """[(key, steps, values)] of the keys that match, by their k and first appearance."""
    keys = dict.fromkeys(key for entry in log_history for key in entry if re.fullmatch(pattern, key))
    lines = []
    for key in sorted(keys, key=lambda key: [int(n) for n in re.findall(r"@(\d+)", key)]):
        # A resumed run logs some steps again; the later entry counts.
        points = {entry["step"]: float(entry[key]) for entry in log_history if "step" in entry and key in entry}
        points = {step: value for step, value in points.items() if math.isfinite(value)}
        if points:
            steps = sorted(points)
            lines.append((key, np.array(steps), np.array([points[step] for step in steps])))
    return lines


def _label(key, title):
    """Key of the log -> name in the legend, without what the title says."""
    name = key.removeprefix("eval_")
    if title == "loss":
        return _LOSSES.get(key, name.replace("_", " "))
    name = re.sub(r"(image_to_text|text_to_image)_recall@", "@", name) if "recall" in title else name
    name = name.removesuffix("_accuracy") if title == "in-batch accuracy" else name
    return name.replace("top", "top-").replace("_", " ").strip()


def _step_label(histories):
    """Label of the x axis, with the images of a step if all runs agree on it."""
    sizes = set()
    for history in histories:
        seen = [(entry["step"], entry["images_seen"]) for entry in history if entry.get("images_seen")]
        sizes.add(f"{max(seen)[1] / max(max(seen)[0], 1):,.0f}" if seen else None)
    return "step" if None in sizes or len(sizes) > 1 else f"step (of {sizes.pop()} images)"
