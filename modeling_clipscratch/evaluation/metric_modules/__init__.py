"""Find the metrics that `evaluate.load` reads from this package, without network."""

from pathlib import Path

from ...utils.errors import ClipScratchError

METRICS = ("zero_shot_accuracy", "retrieval_recall")


def metric_path(name: str) -> str:
    """Return the folder of a metric (`zero_shot_accuracy`, `retrieval_recall`), for `evaluate.load(metric_path(name))`.

    >>> Path(metric_path("zero_shot_accuracy")).name
    'zero_shot_accuracy'
    """
    if name not in METRICS:
        raise ClipScratchError(f"metric {name!r} is not one of {', '.join(METRICS)}.")
    return str(Path(__file__).parent / name)
