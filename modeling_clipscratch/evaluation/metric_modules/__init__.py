"""A metric's name goes in; the folder that `evaluate.load` reads, with no network, comes out."""

from pathlib import Path

from ...hub.errors_clipscratch import ClipScratchError

METRICS = (
    "zero_shot_accuracy",
    "retrieval_recall",
    "mean_per_class_recall",
    "confusion_matrix",
    "expected_calibration_error",
    "knn_accuracy",
    "linear_probe_accuracy",
)


def metric_path(name: str) -> str:
    """The folder of one of our metrics for `evaluate`.

    Args:
        name: one of `METRICS`.
    Returns: a folder for `evaluate.load(metric_path(name))`.
    Raises: ClipScratchError if there is no such metric.

    >>> Path(metric_path("zero_shot_accuracy")).name
    'zero_shot_accuracy'
    """
    if name not in METRICS:
        raise ClipScratchError(f"metric {name!r} is not one of {', '.join(METRICS)}.")
    return str(Path(__file__).parent / name)
