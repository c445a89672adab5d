"""Define every metric, computed from what a model did with each image.

Shapes: N images, M captions, C classes.
"""

from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

RECALLS = (1, 5, 10)
CALIBRATION_BINS = 15
CALIBRATION = "expected_calibration_error"
Z = NormalDist().inv_cdf(0.975)  # of a 95 % interval
TOP5_FROM = 6  # classes; with 5 or fewer, top-5 accuracy is 1 for any model


class Share:
    """The share of hits (M,), or the mean over groups (M,) of the share in each group that has entries.

    `images` (M,) is the image of each entry; by default, entry i belongs to image i.
    """

    def __init__(self, hits: np.ndarray, images: np.ndarray | None = None, groups: np.ndarray | None = None):
        self.hits, self.images = hits, np.arange(len(hits)) if images is None else images
        self._groups = np.zeros(len(hits), dtype=np.int64) if groups is None else groups
        self._totals = np.bincount(self._groups)
        self._of_groups = np.bincount(self._groups, hits) / np.maximum(self._totals, 1)

    @property
    def value(self) -> float:
        return float(self._of_groups[self._totals > 0].mean())

    def influence(self) -> np.ndarray:
        """(N,) first-order change of `value` with the weight of each image; its sum of squares is the variance.

        All entries of an image count together, so captions of one image are not taken for independent.
        """
        return self._by_image(self.hits - self._of_groups[self._groups])

    def effective_count(self) -> float:
        """Number of independent images with the same variance; without variance, that of the heaviest image."""
        variance = (self.influence() ** 2).sum()
        return 1 / self.largest_weight() if variance < 1e-18 else self.value * (1 - self.value) / variance

    def largest_weight(self) -> float:
        return self._by_image(np.ones(len(self.hits))).max()

    def _by_image(self, entries):
        return np.bincount(self.images, entries / self._totals[self._groups] / np.count_nonzero(self._totals))


@dataclass(frozen=True, kw_only=True)
class ClassOutcomes:
    """Classification, one entry for each image."""

    labels: np.ndarray  # (N,) int64 in [0, C)
    ranks: np.ndarray  # (N,) int64, the rank of the right class, 1 for the best
    classes: int  # C
    confidence: np.ndarray | None = None  # (N,) probability of the predicted class; `None` if scores are none

    def __len__(self):
        return len(self.labels)

    def shares(self) -> dict[str, Share]:
        shares = {"top1": Share(self.ranks <= 1)}
        if self.classes >= TOP5_FROM:
            shares["top5"] = Share(self.ranks <= 5)
        return shares | {"mean_per_class_recall": Share(self.ranks <= 1, groups=self.labels)}

    def medians(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {}

    def bin_means(self, values: np.ndarray) -> np.ndarray:
        """(N,) -> (bins,) sum of the values in each bin of confidences, divided by N."""
        bins = calibration_bins(self.confidence)
        return np.array([np.where(bins == number, values, 0).sum() for number in range(CALIBRATION_BINS)]) / len(self)

    def metrics(self) -> dict[str, float]:
        """Return all metrics; the calibration error is that of Guo et al. 2017, equation 3."""
        metrics = {name: share.value for name, share in self.shares().items()}
        if self.confidence is not None:
            metrics[CALIBRATION] = float(np.abs(self.bin_means((self.ranks <= 1) - self.confidence)).sum())
        return metrics

    def exchanged(self, other: "ClassOutcomes", swap: np.ndarray) -> "ClassOutcomes":
        """These outcomes with those of `other` where `swap` (N,) is true."""
        both = self.confidence is not None and other.confidence is not None
        confidence = np.where(swap, other.confidence, self.confidence) if both else None
        return replace(self, ranks=np.where(swap, other.ranks, self.ranks), confidence=confidence)


@dataclass(frozen=True, kw_only=True)
class RetrievalOutcomes:
    """Retrieval in both directions."""

    image_ranks: np.ndarray  # (N,) int64, the rank of the best caption of each image
    text_ranks: np.ndarray  # (M,) int64, the rank of the image of each caption
    caption_to_image: np.ndarray  # (M,) int64 in [0, N)

    def __len__(self):
        return len(self.image_ranks)

    def shares(self) -> dict[str, Share]:
        shares = {f"image_to_text_recall@{k}": Share(self.image_ranks <= k) for k in RECALLS}
        return shares | {
            f"text_to_image_recall@{k}": Share(self.text_ranks <= k, self.caption_to_image) for k in RECALLS
        }

    def medians(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return name -> ranks, and the image of each."""
        return {
            "image_to_text_median_rank": (self.image_ranks, np.arange(len(self))),
            "text_to_image_median_rank": (self.text_ranks, self.caption_to_image),
        }

    def metrics(self) -> dict[str, float]:
        metrics = {name: share.value for name, share in self.shares().items()}
        return metrics | {name: float(np.median(ranks)) for name, (ranks, _) in self.medians().items()}

    def exchanged(self, other: "RetrievalOutcomes", swap: np.ndarray) -> "RetrievalOutcomes":
        """These outcomes with those of `other` where `swap` (N,) is true, captions with their image."""
        return replace(
            self,
            image_ranks=np.where(swap, other.image_ranks, self.image_ranks),
            text_ranks=np.where(swap[self.caption_to_image], other.text_ranks, self.text_ranks),
        )


Outcomes = ClassOutcomes | RetrievalOutcomes


def metric_names(classes: int | None) -> list[str]:
    """Return the names of the metrics of class data with so many classes; with `None`, of caption data."""
    zero, one = np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.int64)
    if classes is None:
        return list(RetrievalOutcomes(image_ranks=one, text_ranks=one, caption_to_image=zero).metrics())
    return list(ClassOutcomes(labels=zero, ranks=one, classes=classes, confidence=np.ones(1)).metrics())


def calibration_bins(confidence: np.ndarray) -> np.ndarray:
    """Return the bin of each confidence: 15 of equal width, open below and closed above (Guo et al. 2017)."""
    return np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64), 1, CALIBRATION_BINS) - 1


def share_interval(share, count):
    """Return the 95 % score interval (low, high) of a share of `count` images, good for few images and near 0 or 1 too.

    Source: Wilson 1927, Journal of the American Statistical Association 22.
    """
    middle = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z * np.sqrt(share * (1 - share) / count + (Z / (2 * count)) ** 2) / (1 + Z**2 / count)
    return middle - half, middle + half
