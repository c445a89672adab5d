"""A training log, confusion counts or a `Result` go in; one PNG comes out. Figures only, no global state of pyplot.

Colours are Okabe and Ito's, shades are of one hue, so colour-blind people and grey printers keep them apart; lines
differ in dashes and markers too, right and wrong in a sign too.
"""

import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .tables import write_whole

logger = logging.getLogger(__name__)

BLUE, VERMILLION, BLACK, GREEN, ORANGE, PURPLE = "#0072B2", "#D55E00", "#000000", "#009E73", "#E69F00", "#CC79A7"
COLOURS = (BLUE, VERMILLION, BLACK, GREEN, ORANGE, PURPLE)
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P")
MOST_TICKS = 40  # class names on an axis; more cannot be read
MOST_COUNTS = 20  # classes whose counts are written into the cells

# Title of a panel, pattern of the log's keys that it shows, what stands on its y axis.
PANELS = (
    ("loss", r"(?:eval_(?:.+_)?)?loss", "nats"),
    ("zero-shot accuracy", r"eval_(?:.+_)?(?:top1|top5|mean_per_class_recall)", "%"),
    ("image to text recall", r"eval_(?:.+_)?image_to_text_recall@\d+", "%"),
    ("text to image recall", r"eval_(?:.+_)?text_to_image_recall@\d+", "%"),
    ("in-batch accuracy", r"(?!eval_).*accuracy", "%"),
    ("learning rate", r"learning_rate(?:_.+)?", ""),
    ("temperature", r"temperature|logit_scale", "exp(-logit_scale)"),
)


def plot_curves(log_history: Sequence[Mapping], path: str | Path) -> None:
    """One panel for each thing that the log has; nothing for what it has not.

    Args:
        log_history: `log_history` of a `trainer_state.json`; entries without a `step` are passed over. Keys shown:
            `loss`, `eval_*loss`, `eval_*top1`, `eval_*top5`, `eval_*mean_per_class_recall`, `eval_*recall@k`,
            `*accuracy`, `learning_rate*`, `temperature` or `logit_scale` (its natural log, negative). With
            `pictures_seen` the axis says how many pictures a step has.
        path: the PNG.
    No picture is made of a log that has nothing to show.
    """
    panels = [(title, series, unit) for title, pattern, unit in PANELS if (series := _series(log_history, pattern))]
    if not panels:
        logger.info("no curves are drawn: the run was shorter than logging_steps and had no evaluation.")
        return
    columns = min(len(panels), 3 if len(panels) != 4 else 2)
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(4.2 * columns, 3.1 * rows)
    axis_name = _step_axis(log_history)
    last = max(steps[-1] for _, series, _ in panels for _, steps, _ in series)
    for place, (title, series, unit) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, place)
        if title == "learning rate":
            series, unit = _in_tens(series)
        for number, (name, steps, values) in enumerate(series):
            values = np.exp(-values) if name == "logit_scale" else values * (100 if unit == "%" else 1)
            _line(axes, number, _short(name, title), steps, values)
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
        axes.set_ylabel(unit)
        axes.set_xlabel(axis_name)
        axes.set_xlim(0, 1.02 * last)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if unit == "%":
            axes.set_ylim(-3, 103)
        _tidy(axes)
        if len(series) > 1 or title not in ("learning rate", "temperature"):
            axes.legend(fontsize=8, frameon=False, handlelength=2.6)
    save_figure(figure, path)


def plot_confusion(confusion: np.ndarray, class_names: Sequence[str], path: str | Path) -> None:
    """True classes down, predicted classes across; shade = share of the true class, number = count.

    Args:
        confusion: (C, C) counts, row = true class.
        class_names: (C,).
        path: the PNG.
    """
    classes = len(class_names)
    assert confusion.shape == (classes, classes), f"confusion {confusion.shape} for {classes} class names"
    totals = confusion.sum(1, keepdims=True)
    shares = np.divide(confusion, totals, out=np.zeros(confusion.shape), where=totals > 0)
    labelled = classes <= MOST_TICKS
    size = min(max(4.2, 0.42 * classes + 1.8), 14.0) if labelled else 8.0
    # Axes of fixed proportions: the usual layout would cut their names off.
    figure = new_figure(size + 0.8, size, layout="compressed")
    axes = figure.add_subplot()
    # The root of the share: a mistake made once in fifty times would not be seen otherwise.
    shade = PowerNorm(0.5, vmin=0, vmax=100)
    image = axes.imshow(100 * shares, cmap="Blues", norm=shade, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, fraction=0.045, pad=0.03, ticks=[0, 1, 5, 10, 25, 50, 100])
    bar.set_label("% of the true class")
    bar.outline.set_visible(False)
    if labelled:
        font = 9 if classes <= MOST_COUNTS else 7
        names = [shortened(name, 22) for name in class_names]
        upright = classes > 12 or max(len(name) for name in names) > 5
        axes.set_xticks(range(classes), names, rotation=90 if upright else 0, fontsize=font, parse_math=False)
        axes.set_yticks(range(classes), names, fontsize=font, parse_math=False)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel("predicted" if labelled else "predicted (number of the class)")
    axes.set_ylabel("true" if labelled else "true (number of the class)")
    axes.tick_params(length=0)
    axes.spines[:].set_color("0.8")
    if classes <= MOST_COUNTS:
        font = 8 if confusion.max() < 1000 else 6.5
        for row, column in zip(*np.nonzero(confusion), strict=True):
            colour = "white" if shares[row, column] > 0.3 else "black"
            axes.text(column, row, int(confusion[row, column]), ha="center", va="center", color=colour, fontsize=font)
    right = confusion.trace() / confusion.sum()
    axes.set_title(f"{right:.1%} of {confusion.sum():,} pictures right", loc="left", fontsize=11, fontweight="bold")
    save_figure(figure, path)


def shortened(text: str, longest: int) -> str:
    """One line of at most `longest` characters.

    >>> shortened("a very  long name", 10)
    'a very lo…'
    """
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


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
        return {"loss": "training", "eval_loss": "evaluation"}.get(key, key.removeprefix("eval_").replace("_", " "))
    name = key.removeprefix("eval_")
    name = re.sub(r"(image_to_text|text_to_image)_recall@", "@", name) if "recall" in title else name
    name = name.removesuffix("_accuracy") if title == "in-batch accuracy" else name
    return name.replace("top", "top-").replace("_", " ").strip()


def _in_tens(series):
    """The same numbers in units of a power of ten, and that unit's name: an axis of 0 to 8 instead of 0.0008."""
    largest = max(float(values.max()) for _, _, values in series)
    exponent = math.floor(math.log10(largest)) if largest > 0 else 0
    return [(name, steps, values / 10.0**exponent) for name, steps, values in series], f"1e{exponent}"


def _step_axis(log_history):
    seen = [(entry["step"], entry["pictures_seen"]) for entry in log_history if entry.get("pictures_seen")]
    if not seen:
        return "step"
    step, pictures = max(seen)
    return f"step (of {pictures / max(step, 1):,.0f} pictures)"


def _line(axes, number, name, steps, values):
    style = {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number % len(DASHES)], "linewidth": 1.6}
    few = len(steps) <= 30  # marks on more points than these run together
    axes.plot(steps, values, label=name, marker=MARKERS[number % len(MARKERS)] if few else None, markersize=4, **style)


def _tidy(axes):
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, color="0.6")
    axes.xaxis.label.set_size(9)
    axes.yaxis.label.set_size(9)


def new_figure(width, height, *, layout="constrained"):
    """A figure of so many inches on a canvas of its own; `layout` `compressed` is for axes of fixed proportions."""
    figure = Figure(figsize=(width, height), dpi=130, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure, path):
    """One PNG, whole or not at all."""
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png"))
