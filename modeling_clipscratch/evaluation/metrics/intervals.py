"""Compute 95 % intervals of metrics, and compare two models on the same images.

An interval is about more images like these: each image, with all its captions, is one independent draw. The model,
its training and the gallery of a retrieval are given. The spread over trainings is often larger.
Closed formulas take the place of `scipy.stats.bootstrap`, whose intervals hold the true calibration error in 0 to 93 %
of simulations and accuracies near 1 in 89 to 99 %; these hold them in 94 to 97 % (benchmarks/RESULTS.md).
"""

from dataclasses import dataclass

import numpy as np

from .outcomes import CALIBRATION, Outcomes, Share, share_interval

DRAWS = 2000  # of the noise of calibration bins
BLOCK = 2**20  # coins thrown at once
TINY = 1e-9  # what rounding may change in a metric


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Second model minus first, with the ends of the 95 % interval and the two-sided p-value of no difference."""

    value: float
    low: float
    high: float
    p_value: float


def confidence_intervals(outcomes: Outcomes) -> dict[str, list[float]]:
    """Compute the 95 % intervals of all metrics.

    1. Shares of hits: Wilson's interval with the number of independent images that have the same variance (Korn &
       Graubard 1998).
    2. Median ranks: the ranks at the ends of Wilson's interval of a share of one half (Woodruff 1952). Fewer than 6
       images bound no median.
    3. Expected calibration error: noise in a bin counts as error in either direction, so the figure lies above the true
       one. Hence a test is inverted: the interval holds the sums of those gaps which, with noise, give the figure.

    Returns:
        `<metric>_ci95` -> [low, high], in the unit and range of the metric; it holds the metric itself.
    """
    medians, intervals = outcomes.medians(), {}
    for name, value in outcomes.metrics().items():
        least, most = 0.0, 1.0
        if name == CALIBRATION:
            low, high = _calibration_ends(outcomes, value)
        else:
            share = _noisy_share(outcomes, name)
            low, high = share_interval(0.5 if name in medians else share.value, share.effective_count())
        if name in medians:
            ranks, _ = medians[name]
            least, most = 1.0, float(len(outcomes) if name.startswith("text") else len(outcomes.text_ranks))
            enough = len(outcomes) >= 6
            low, high = np.quantile(ranks, [low, high], method="inverted_cdf") if enough else (least, most)
        intervals[f"{name}_ci95"] = [float(min(max(low, least), value)), float(max(min(high, most), value))]
    return intervals


def paired_differences(first: Outcomes, second: Outcomes, *, flips: int = 2000, seed: int = 0) -> dict[str, Difference]:
    """Compare two models on the same images: second minus first.

    1. Interval: from the intervals of the two models and the correlation of their outcomes (Newcombe 1998, method 10;
       Zou & Donner 2008). Calibration errors count as uncorrelated, which makes their interval wider than need be.
    2. p-value: how often the difference is as large, of either sign, when a coin decides for each image which outcome
       is whose, captions with their image. Exact if the models are interchangeable, for any metric.

    Metrics that only one of the two has are left out.
    """
    one, two = first.metrics(), second.metrics()
    values = {name: two[name] - one[name] for name in one if name in two}
    ends_of_one, ends_of_two = confidence_intervals(first), confidence_intervals(second)
    larger, generator = dict.fromkeys(values, 0), np.random.default_rng(seed)
    block = max(1, BLOCK // len(first))
    for done in range(0, flips, block):
        # One exchange for all metrics; `scipy.stats.permutation_test` would draw them again for each metric.
        for swap in generator.integers(2, size=(min(block, flips - done), len(first)), dtype=bool):
            before, after = first.exchanged(second, swap).metrics(), second.exchanged(first, swap).metrics()
            for name, value in values.items():
                larger[name] += abs(after[name] - before[name]) >= abs(value) - TINY
    differences = {}
    for name, value in values.items():
        correlation = 0.0 if name == CALIBRATION else _correlation(first, second, name)
        (low_one, high_one), (low_two, high_two) = ends_of_one[f"{name}_ci95"], ends_of_two[f"{name}_ci95"]
        low = value - _joined(two[name] - low_two, high_one - one[name], correlation)
        high = value + _joined(high_two - two[name], one[name] - low_one, correlation)
        differences[name] = Difference(value=value, low=low, high=high, p_value=(1 + larger[name]) / (1 + flips))
    return differences


def _noisy_share(outcomes, name) -> Share:
    """The share of hits that a metric is; of a median, the share of ranks up to it."""
    if name not in outcomes.medians():
        return outcomes.shares()[name]
    ranks, images = outcomes.medians()[name]
    return Share(ranks <= np.median(ranks), images)


def _correlation(first, second, name):
    """Of the two models' outcomes, less half an image that differs (Newcombe's continuity correction)."""
    one, two = (_noisy_share(outcomes, name) for outcomes in (first, second))
    a, b = one.influence(), two.influence()
    covariance, scale = a @ b, np.sqrt((a @ a) * (b @ b))
    if covariance > 0:
        covariance = max(0.0, covariance - one.largest_weight() ** 2 / 2)
    return covariance / scale if scale > 1e-18 else 0.0


def _joined(one, two, correlation):
    return float(np.sqrt(max(0.0, one**2 + two**2 - 2 * correlation * one * two)))


def _calibration_ends(outcomes, value):
    """Sums of gaps, each moved by as many standard errors, that give the measured sum with noise."""
    right = outcomes.ranks <= 1
    if right.all() or not right.any():  # of a kind of which N images show none, 1 - 0.025^(1/N) may be of it
        unseen = 1 - 0.025 ** (1 / len(outcomes))
        return value - unseen, value + unseen
    gaps = outcomes.bin_means(right - outcomes.confidence)
    squares = outcomes.bin_means((right - outcomes.confidence) ** 2)
    covariance = (np.diag(squares) - np.outer(gaps, gaps)) / len(outcomes)
    noise = np.random.default_rng(0).multivariate_normal(np.zeros(len(gaps)), covariance, DRAWS, method="eigh")
    steps = np.append(1e9, np.linspace(4, -4, 201))  # the first one leaves no gap at all
    moved = np.sign(gaps) * np.maximum(np.abs(gaps) - steps[:, None] * np.sqrt(np.diag(covariance)), 0)
    least, most = np.quantile([np.abs(shape + noise).sum(1) for shape in moved], [0.025, 0.975], axis=1)
    sums = np.abs(moved).sum(1)
    return sums[most >= value - TINY].min(initial=value), sums[least <= value + TINY].max(initial=0)
