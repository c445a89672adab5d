"""The training logs of one run or of several go in; their curves come out as one PNG."""

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

FEW = 30  # points; marks on more of them run together
# Title of a panel, pattern of the log's keys that it shows, what stands on its y axis.
PANELS = (
    ("loss", r"(?:eval_(?:.+_)?)?loss|loss_floor", "nats"),
    ("zero-shot accuracy", r"eval_(?:.+_)?(?:top1|top5|mean_per_class_recall)", "%"),
    ("image to text recall", r"eval_(?:.+_)?image_to_text_recall@\d+", "%"),
    ("text to image recall", r"eval_(?:.+_)?text_to_image_recall@\d+", "%"),
    ("in-batch accuracy", r"(?!eval_).*accuracy", "%"),
    ("learning rate", r"learning_rate(?:_.+)?", ""),
    ("temperature", r"temperature|logit_scale", "exp(-logit_scale)"),
)


def plot_curves(log_history: Sequence[Mapping] | Mapping[str, Sequence[Mapping]], path: str | Path) -> None:
    """One panel for each thing that the log has; nothing for what it has not.

    Args:
        log_history: `log_history` of a `trainer_state.json`, or {run name: the same} for several runs on one sheet.
            Entries without a `step` are passed over. Keys shown: `loss`, `loss_floor` (thin), `eval_*loss`,
            `eval_*top1`, `eval_*top5`, `eval_*mean_per_class_recall`, `eval_*recall@k`, `*accuracy`, `learning_rate*`,
            `temperature` or `logit_scale` (natural log, negative). With `images_seen` the axis names the images a step.
        path: the PNG.
    No picture is made of logs that have nothing to show.
    """
    runs = dict(log_history) if isinstance(log_history, Mapping) else {"": log_history}
    found = {
        title: {run: series for run, history in runs.items() if (series := _series(history, pattern))}
        for title, pattern, _ in PANELS
    }
    panels = [(title, found[title], unit) for title, _, unit in PANELS if found[title]]
    if not panels:
        logger.info("no curves are drawn: the run was shorter than logging_steps and had no evaluation.")
        return
    columns = min(len(panels), 3 if len(panels) != 4 else 2)
    lines = math.ceil(len(panels) / columns)
    figure = new_figure(4.2 * columns, 3.1 * lines)
    axis_name = _step_axis(runs.values())
    last = max(s[-1] for _, of_runs, _ in panels for series in of_runs.values() for _, s, _ in series)
    for place, (title, of_runs, unit) in enumerate(panels, start=1):
        axes = figure.add_subplot(lines, columns, place)
        _panel(axes, title, of_runs, unit, list(runs))
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
        axes.set_xlabel(axis_name)
        axes.set_xlim(0, 1.02 * last)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        tidy(axes)
    if len(runs) > 1:
        handles = [Line2D([], [], linewidth=1.6, markersize=5, **look(number)) for number in range(len(runs))]
        names = [shortened(name, 40) for name in runs]
        plain_legend(figure, handles, names, loc="outside upper left", ncols=3, handlelength=3)
    save_figure(figure, path)


def _panel(axes, title, of_runs, unit, runs):
    """All lines of one panel; of one run each has a colour, of several each run has."""
    if title == "learning rate":
        of_runs, unit = _in_tens(of_runs)
    keys = list(dict.fromkeys(key for series in of_runs.values() for key, _, _ in series))
    for run, series in of_runs.items():
        for key, steps, values in series:
            values = np.exp(-values) if key == "logit_scale" else values * (100 if unit == "%" else 1)
            place, width = keys.index(key), 0.8 if key == "loss_floor" else 1.6
            dash = DASHES[place % len(DASHES)]
            if len(runs) == 1:
                marker = MARKERS[place % len(MARKERS)] if len(steps) <= FEW else None
                style = {"color": COLOURS[place % len(COLOURS)], "marker": marker}
            else:
                style = {**look(runs.index(run)), "markevery": max(1, len(steps) // 8)}
            axes.plot(steps, values, label=_short(key, title), linestyle=dash, linewidth=width, markersize=4, **style)
    axes.set_ylabel(unit)
    if unit == "%":
        axes.set_ylim(*_percent_limits(axes.lines))
    if len(runs) > 1 and len(keys) > 1:
        handles = [Line2D([], [], color="0.35", linestyle=DASHES[n % len(DASHES)]) for n in range(len(keys))]
        plain_legend(axes, handles, [_short(key, title) for key in keys], handlelength=2.6)
    elif len(keys) > 1 or (len(runs) == 1 and title not in ("learning rate", "temperature")):
        plain_legend(axes, handlelength=2.6)


def _percent_limits(lines):
    """From 0 where the values come near it, else closer; never closer than 4 points, never far beyond 100."""
    values = np.concatenate([line.get_ydata() for line in lines])
    low, high = float(values.min()), float(values.max())
    margin = max(2.0, 0.1 * (high - low))
    low = -3.0 if low < 20 else low - margin
    return low, min(high + margin, 100 + 0.06 * (100 - low))


def _series(log_history, pattern):
    """[(key, steps, values)] of the keys that match, in the order of first appearance."""
    keys = dict.fromkeys(key for entry in log_history for key in entry if re.fullmatch(pattern, key))
    found = []
    for key in sorted(keys, key=lambda key: [int(n) for n in re.findall(r"@(\d+)", key)]):
        # A resumed run logs some steps again; the later entry holds.
        points = {entry["step"]: float(entry[key]) for entry in log_history if "step" in entry and key in entry}
        points = {step: value for step, value in points.items() if math.isfinite(value)}
        if points:
            steps = sorted(points)
            found.append((key, np.array(steps), np.array([points[step] for step in steps])))
    return found


def _short(key, title):
    """Key of the log -> name in the legend; what the title says already is left out."""
    if title == "loss":
        return {"loss": "training", "loss_floor": "floor", "eval_loss": "evaluation"}.get(
            key, key.removeprefix("eval_").replace("_", " ")
        )
    name = key.removeprefix("eval_")
    name = re.sub(r"(image_to_text|text_to_image)_recall@", "@", name) if "recall" in title else name
    name = name.removesuffix("_accuracy") if title == "in-batch accuracy" else name
    return name.replace("top", "top-").replace("_", " ").strip()


def _in_tens(of_runs):
    """The same numbers in units of a power of ten, and that unit's name: an axis of 0 to 8 instead of 0.0008."""
    largest = max(float(values.max()) for series in of_runs.values() for _, _, values in series)
    exponent = math.floor(math.log10(largest)) if largest > 0 else 0
    scaled = {
        run: [(name, steps, values / 10.0**exponent) for name, steps, values in series]
        for run, series in of_runs.items()
    }
    return scaled, f"1e{exponent}"


def _step_axis(histories):
    """The name of the axis, with the pictures of a step where the runs agree on it."""
    sizes = set()
    for history in histories:
        seen = [(entry["step"], entry["images_seen"]) for entry in history if entry.get("images_seen")]
        sizes.add(f"{max(seen)[1] / max(max(seen)[0], 1):,.0f}" if seen else None)
    return "step" if None in sizes or len(sizes) > 1 else f"step (of {sizes.pop()} pictures)"
