"""What a model did with each picture comes in; its metrics come out, for the pictures as they are or counted anew.

The one definition of every metric: a weight says how often a picture counts. All ones give the figure itself, counts
drawn at random give the figure of a resample, which is what error bars are made of (`intervals.py`).
Shapes: N pictures, M captions, C classes, W sets of weights.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

RECALLS = (1, 5, 10)
CALIBRATION_BINS = 15
Z = NormalDist().inv_cdf(0.975)  # of a 95 % interval
TOP5_FROM = 6  # classes; with 5, top-5 is 1 for any model


@dataclass(frozen=True, kw_only=True)
class ClassOutcomes:
    """Classification, a picture each.

    Args:
        labels: (N,) int64 in [0, C).
        ranks: (N,) int64, the rank of the right class, 1 for the best.
        classes: C.
        confidence: (N,) probability of the predicted class; `None` where the scores are no probabilities.

    >>> outcomes = ClassOutcomes(labels=np.array([0, 1, 1, 2]), ranks=np.array([1, 1, 3, 1]), classes=3)
    >>> float(outcomes.metrics()["top1"][0])
    0.75
    """

    labels: np.ndarray
    ranks: np.ndarray
    classes: int
    confidence: np.ndarray | None = None

    def __len__(self):
        return len(self.labels)

    def joined(self, other: "ClassOutcomes") -> "ClassOutcomes":
        """The N pictures of this one, then those of the other; with confidences if both have them."""
        assert self.classes == other.classes, f"{self.classes} and {other.classes} classes"
        known = self.confidence is not None and other.confidence is not None
        return ClassOutcomes(
            labels=np.concatenate([self.labels, other.labels]),
            ranks=np.concatenate([self.ranks, other.ranks]),
            classes=self.classes,
            confidence=np.concatenate([self.confidence, other.confidence]) if known else None,
        )

    def calibration_gaps(self, weights: np.ndarray) -> np.ndarray:
        """(W, N) weights -> (W, bins) right minus confidence, summed in each bin, as fractions of the pictures."""
        gaps = _sums(
            weights * ((self.ranks <= 1) - self.confidence), calibration_bins(self.confidence), CALIBRATION_BINS
        )
        return gaps / weights.sum(1, keepdims=True)

    def metrics(self, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """
        Args:
            weights: (W, N), how often each picture counts; `None` for once each, W = 1.
        Returns: name -> (W,) fractions: `top1`, `top5` (from 6 classes on), `mean_per_class_recall` (classes without
            pictures are left out of the mean) and, with confidences, `expected_calibration_error`.
        """
        weights = np.ones((1, len(self))) if weights is None else weights
        count, right = weights.sum(1), self.ranks <= 1
        found = {"top1": weights @ right / count}
        if self.classes >= TOP5_FROM:
            found["top5"] = weights @ (self.ranks <= 5) / count
        found["mean_per_class_recall"] = mean_recall(
            _sums(weights * right, self.labels, self.classes), _sums(weights, self.labels, self.classes)
        )
        if self.confidence is not None:
            found["expected_calibration_error"] = np.abs(self.calibration_gaps(weights)).sum(1)
        return found


@dataclass(frozen=True, kw_only=True)
class RetrievalOutcomes:
    """Retrieval in both directions; the captions of a picture stand and fall with it.

    Args:
        image_ranks: (N,) int64, the rank of each picture's best caption.
        text_ranks: (M,) int64, the rank of each caption's picture.
        caption_to_image: (M,) int64 in [0, N).

    >>> outcomes = RetrievalOutcomes(
    ...     image_ranks=np.array([1, 7]), text_ranks=np.array([1, 2, 2, 9]), caption_to_image=np.array([0, 0, 1, 1])
    ... )
    >>> float(outcomes.metrics()["image_to_text_recall@1"][0]), float(outcomes.metrics()["text_to_image_recall@5"][0])
    (0.5, 0.75)
    """

    image_ranks: np.ndarray
    text_ranks: np.ndarray
    caption_to_image: np.ndarray

    def __len__(self):
        return len(self.image_ranks)

    def joined(self, other: "RetrievalOutcomes") -> "RetrievalOutcomes":
        """The N pictures of this one, then those of the other, each with its own captions and its own ranks."""
        return RetrievalOutcomes(
            image_ranks=np.concatenate([self.image_ranks, other.image_ranks]),
            text_ranks=np.concatenate([self.text_ranks, other.text_ranks]),
            caption_to_image=np.concatenate([self.caption_to_image, other.caption_to_image + len(self)]),
        )

    def metrics(self, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """
        Args:
            weights: (W, N), how often each picture counts, and with it its captions; `None` for once each, W = 1.
        Returns: name -> (W,) `image_to_text_recall@k`, `text_to_image_recall@k` (fractions) and both median ranks.
        """
        weights = np.ones((1, len(self))) if weights is None else weights
        sides = (
            ("image_to_text", self.image_ranks, np.arange(len(self))),
            ("text_to_image", self.text_ranks, self.caption_to_image),
        )
        found = {}
        for direction, ranks, picture in sides:
            count = weights @ np.bincount(picture, minlength=len(self))
            for k in RECALLS:
                hits = np.bincount(picture, ranks <= k, len(self))  # summed once a picture, not once a weight
                found[f"{direction}_recall@{k}"] = weights @ hits / count
            found[f"{direction}_median_rank"] = weighted_median(ranks, weights[:, picture])
        return found


Outcomes = ClassOutcomes | RetrievalOutcomes


def plain_metrics(outcomes: Outcomes) -> dict[str, float]:
    """Every metric with each picture counted once.

    >>> plain_metrics(ClassOutcomes(labels=np.array([0, 1, 1]), ranks=np.array([1, 1, 2]), classes=2))
    {'top1': 0.6666666666666666, 'mean_per_class_recall': 0.75}
    """
    return {name: float(values[0]) for name, values in outcomes.metrics().items()}


def metric_names(classes: int | None) -> list[str]:
    """What is measured of class data with so many classes; with `None`, of captions.

    >>> metric_names(2)
    ['top1', 'mean_per_class_recall', 'expected_calibration_error']
    """
    zero, one = np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.int64)
    if classes is None:
        return list(RetrievalOutcomes(image_ranks=one, text_ranks=one, caption_to_image=zero).metrics())
    return list(ClassOutcomes(labels=zero, ranks=one, classes=classes, confidence=np.ones(1)).metrics())


def mean_recall(right: np.ndarray, total: np.ndarray) -> np.ndarray:
    """(..., C) right and (..., C) all pictures of each class -> (...) mean recall of the classes that have any.

    >>> float(mean_recall(np.array([3, 0, 1]), np.array([4, 0, 2])))
    0.625
    """
    shown = total > 0
    recalls = np.divide(right, total, out=np.zeros(np.shape(total)), where=shown)
    return recalls.sum(-1) / shown.sum(-1)


def calibration_bins(confidence: np.ndarray) -> np.ndarray:
    """(N,) confidences -> (N,) numbers of their bins, of equal width, open below and closed above (Guo et al. 2017).

    >>> calibration_bins(np.array([0.0, 1 / 15, 0.07, 1.0])).tolist()
    [0, 0, 1, 14]
    """
    return np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64), 1, CALIBRATION_BINS) - 1


def share_interval(share, count):
    """95 % interval of a share of so many pictures, which holds for few of them and near 0 and 1 too.

    Args:
        share: number or array.
        count: the same, above 0.
    Returns: (low, high).
    Source: Wilson 1927, Journal of the American Statistical Association 22.

    >>> [round(float(end), 4) for end in share_interval(0.8, 10)]
    [0.4902, 0.9433]
    """
    middle = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z * np.sqrt(share * (1 - share) / count + (Z / (2 * count)) ** 2) / (1 + Z**2 / count)
    return middle - half, middle + half


def weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Median of values that count several times: of an even count, the mean of the middle two.

    Args:
        values: (M,).
        weights: (W, M), not negative.
    Returns: (W,).

    >>> weighted_median(np.array([5, 1, 3]), np.array([[1, 1, 1], [1, 1, 0], [0, 3, 1]])).tolist()
    [3.0, 3.0, 1.0]
    """
    values, places = np.unique(values, return_inverse=True)
    reached = np.cumsum(_sums(weights, places, len(values)), axis=1)
    half = reached[:, -1:] / 2
    lower = values[(reached >= half).argmax(1)]
    upper = values[(reached > half).argmax(1)]
    return (lower + upper) / 2


def _sums(values, places, count):
    """(W, N) values, (N,) places in [0, count) -> (W, count) sums by place."""
    # Row by row: an indicator matrix (N, count) would be 8 GB for a million pictures of a thousand classes.
    return np.stack([np.bincount(places, row, count) for row in values])
