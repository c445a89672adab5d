"""A result, or those of several models, go in; what a page says of them, in words and lengths, comes out."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from ..evaluate_dataset import PROBES
from ..plots.confusion import worst_confusions
from ..plots.retrieval_sheets import worst_of_pictures
from .comparison import shown_p, verdict
from .metric_tables import INTERVAL, in_its_unit, is_rank, shown_of, values_only

HEADLINES = {
    "class": ("top1", "top5", "mean_per_class_recall"),
    "caption": tuple(f"{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5)),
}
WORDS = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "mean_per_class_recall": "mean per-class recall",
    "expected_calibration_error": "calibration error",
}
TASK_WORDS = {"zero_shot": "zero-shot", "knn": "k nearest neighbours", "linear_probe": "linear probe"}
PHOTO_GAIN = 2  # a picture travels as JPEG where that makes it so many times smaller
MOST_RECALLS = 40  # classes with a line each; of more, the lowest


def as_data_uri(path: Path) -> str:
    """A picture as text that stands in a page: as PNG, or as JPEG where that is much smaller, as for photographs."""
    kind, content, buffer = "png", path.read_bytes(), io.BytesIO()
    with Image.open(path) as picture:
        picture.convert("RGB").save(buffer, "jpeg", quality=88, subsampling=0)
    if PHOTO_GAIN * buffer.tell() < len(content):
        kind, content = "jpeg", buffer.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def in_words(name: str) -> str:
    """
    >>> [in_words(name) for name in ("top1", "text_to_image_recall@5", "image_to_text_median_rank")]
    ['top-1 accuracy', 'text to image, recall@5', 'image to text, median rank']
    """
    for way in ("image_to_text", "text_to_image"):
        if name.startswith(way + "_"):
            return f"{way.replace('_', ' ')}, {name.removeprefix(way + '_').replace('_', ' ')}"
    return WORDS.get(name, name.replace("_", " "))


def task_in_words(task: str) -> str:
    """
    >>> [task_in_words(task) for task in ("knn", "retrieval")]
    ['k nearest neighbours', 'retrieval']
    """
    return TASK_WORDS.get(task, task)


def data_set_shown(result, name, short, pictures):
    """What the page's template shows of one model on one data set."""
    metrics = result.metrics
    classes = None if result.class_names is None else len(result.class_names)
    probe = result.task in PROBES
    names = [metric for metric in HEADLINES[result.kind] if metric in metrics]
    # With as many pictures in each class the two say the same.
    if metrics.get("top1") == metrics.get("mean_per_class_recall"):
        names = [metric for metric in names if metric != "mean_per_class_recall"]
    return {
        "name": short,
        "full": name,
        "split": result.split,
        "origin": result.dataset.info.description or name,
        "pictures_measured": f"{len(result.dataset):,}",
        "skipped": result.skipped,
        "task": task_in_words(result.task) + (", learned from the training split" if probe else ""),
        "texts": f"{classes:,} classes" + ("" if probe else _prompts(len(result.templates)))
        if classes
        else f"{len(result.text_embeds):,} captions",
        "headlines": [
            {"name": in_words(metric), "shown": shown_of(metrics, metric), "chance": _chance(metric, result)}
            | _track(metrics, metric, 0.0, 1.0)
            for metric in names
        ],
        "metrics": [
            (
                in_words(metric),
                in_its_unit(metric, value) + ("" if is_rank(metric) else " %"),
                _interval(metrics, metric),
            )
            for metric, value in values_only(metrics).items()
        ],
        **(
            _class_details(result)
            if classes
            else {"recalls": [], "confusions": [], "misses": worst_of_pictures(result)}
        ),
        "pictures": [
            {
                "title": picture.title,
                "reading": picture.reading,
                "source": as_data_uri(picture.path),
                "alt": f"{picture.title}: {short}, {result.split}",
            }
            for picture in pictures
        ],
    }


def _prompts(count):
    return f", {count} prompt{'s' * (count > 1)} each"


def _class_details(result):
    """Recalls of the classes, the lowest first where there are many, and the mistakes made most often."""
    totals, right = result.confusion.sum(1), result.confusion.diagonal()
    recalls = [
        {"name": name, "right": int(hits), "of": int(total), "percent": 100 * hits / total if total else None}
        for name, hits, total in zip(result.class_names, right, totals, strict=True)
    ]
    left_out = len(recalls) - MOST_RECALLS
    if left_out > 0:
        recalls = sorted(recalls, key=lambda line: 101 if line["percent"] is None else line["percent"])[:MOST_RECALLS]
    return {
        "recalls": recalls,
        "recalls_left_out": max(left_out, 0),
        "confusions": worst_confusions(result.confusion, result.class_names),
        "misses": [],
    }


def _chance(metric, result):
    """What guessing would give, as a fraction; `None` where that depends on more than counts."""
    candidates = len(result.dataset) if result.class_names is None else len(result.class_names)
    if "@" in metric:
        return min(1.0, int(metric.split("@")[1]) / candidates)
    return {"top1": 1 / candidates, "top5": 5 / candidates, "mean_per_class_recall": 1 / candidates}[metric]


def _interval(metrics, name):
    ends = metrics.get(name + INTERVAL)
    return "" if ends is None else f"{in_its_unit(name, ends[0])} to {in_its_unit(name, ends[1])}"


def _track(metrics, name, low, high):
    """Where on a line from `low` to `high` a value and its interval stand, in percent of its length."""
    ends = metrics.get(name + INTERVAL, [metrics[name]] * 2)
    value, left, right = (100 * float(np.clip((end - low) / (high - low), 0, 1)) for end in (metrics[name], *ends))
    return {"at": round(value, 2), "left": round(left, 2), "width": round(right - left, 2)}


def comparison_shown(evaluations, data_set, short, names, differences):
    """What the page's template shows of several models on one data set."""
    found = {model: of[data_set].metrics for model, of in evaluations.items() if data_set in of}
    apart = (differences or {}).get(data_set, {})
    lines = []
    for name in dict.fromkeys(metric for metrics in found.values() for metric in values_only(metrics)):
        having = {model: metrics for model, metrics in found.items() if name in metrics}
        low, high = _limits(name, having.values())
        lines.append(
            {
                "name": in_words(name),
                "low": in_its_unit(name, low),
                "high": in_its_unit(name, high) + ("" if is_rank(name) else " %"),
                "models": [
                    {
                        "name": names[model],
                        "shown": shown_of(metrics, name),
                        "difference": _difference(name, apart.get(model, {}).get(name)),
                        **_track(metrics, name, low, high),
                    }
                    for model, metrics in having.items()
                ],
            }
        )
    return {"name": short, "models": [names[model] for model in found], "lines": lines, "tested": bool(apart)}


def _limits(name, of_models):
    """Ends of a line that all values and intervals fit on, on round numbers."""
    values = [end for metrics in of_models for end in (metrics[name], *metrics.get(name + INTERVAL, []))]
    step = 1.0 if is_rank(name) else 0.05
    low, high = np.floor(min(values) / step) * step, np.ceil(max(values) / step) * step
    return float(low), float(high if high > low else low + step)


def _difference(name, difference):
    if difference is None:
        return None
    ends = (in_its_unit(name, end, "+") for end in (difference.value, difference.low, difference.high))
    value, low, high = (end.replace("-", "\N{MINUS SIGN}") for end in ends)
    unit = "" if is_rank(name) else " points"
    words = verdict(name, difference)
    return {
        "shown": f"{value}{unit}",
        "interval": f"{low} to {high}",
        "p": shown_p(difference.p_value),
        "words": words,
        "tone": words if words in ("better", "worse") else "",
    }
