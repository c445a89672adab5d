"""What one model, or two, did with each picture comes in; 95 % intervals and tests of their difference come out.

Every interval is of the metric on an endless supply of pictures like these: pictures are drawn anew with
replacement, and the captions of a picture go with it (a cluster bootstrap). The model, its training and, for
retrieval, the gallery to search in are taken as given; the pictures and captions are drawn as queries only. What
another training would give is the spread over seeds (`over_seeds`), and it is often the larger of the two.
Cost: resamples x N draws, in blocks of 8 MB or one row. On one core of an AMD EPYC, 2,000 resamples of 10,000 pictures
take 0.6 s and of a million 90 s, a pair of models some five times as long; memory grows by some 100 MB.
Coverage, measured by `benchmarks/coverage.py`: 94 to 96 % for fractions, 94 to 97 % for the calibration error, 97 to
100 % for median ranks (whole numbers); 93 to 96 % for differences (calibration: 99), 92 % if few pictures differ.
Sources: Efron & Tibshirani 1993, An Introduction to the Bootstrap; Field & Welsh 2007, Bootstrapping clustered data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...hub.errors_clipscratch import ClipScratchError
from .outcomes import ClassOutcomes, Outcomes, plain_metrics, share_interval

TAILS = (0.025, 0.975)
BLOCK = 2**20  # weights held at once
TINY = 1e-9  # what rounding alone may do to a metric
MEDIAN = "median_rank"
CALIBRATION = "expected_calibration_error"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Second model minus first.

    Args:
        value: of the metric, a fraction or a rank.
        low, high: ends of the 95 % interval.
        p_value: of no difference, in (0, 1], two-sided.

    >>> Difference(value=0.02, low=-0.01, high=0.05, p_value=0.2).low < 0  # it may be chance
    True
    """

    value: float
    low: float
    high: float
    p_value: float


def confidence_intervals(outcomes: Outcomes, *, resamples: int = 2000, seed: int = 0) -> dict[str, list[float]]:
    """95 % intervals of all metrics.

    1. Fractions of right answers: Wilson's score interval with the number of independent pictures that would vary as
       much as the resamples do. Where these do not vary (all right, all wrong), it is the number of pictures; for the
       mean recall, of classes times the pictures of the smallest.
    2. Median ranks: percentiles of the resamples. Fewer than 6 pictures bound no median: from 1 to the last rank.
    3. Expected calibration error: of the same bins on endless pictures. The figure lies above that, since noise in a
       bin counts as error whichever way it points. So the test is turned round: every bin's gap is moved by as many
       standard errors, to zero or away from it, and the interval holds the sums which, with the noise of the
       resamples, give the figure. All right or all wrong: the bound of `paired_differences`, 1.

    Args:
        outcomes: of N pictures.
        resamples: more make the ends steadier; with 2,000 they move by some 2 % of the width from seed to seed.
        seed: of the draws; the same seed gives the same interval.
    Returns: `<metric>_ci95` -> [low, high], in the metric's unit and range; stretched to hold the figure itself.
    Source: Wilson 1927 with the effective number of Korn & Graubard 1998.

    >>> right = ClassOutcomes(labels=np.zeros(100, int), ranks=np.ones(100, int), classes=1)
    >>> [round(end, 3) for end in confidence_intervals(right)["top1_ci95"]]
    [0.963, 1.0]
    """

    def measure(weights):
        found = outcomes.metrics(weights)
        return {**found, "gaps": outcomes.calibration_gaps(weights)} if CALIBRATION in found else found

    pictures, found = len(outcomes), {}
    drawn = _measured(measure, _resample, np.random.default_rng(seed), pictures, resamples)
    for name, value in plain_metrics(outcomes).items():
        if name.endswith(MEDIAN):
            ends = _percentile_ends(name, drawn[name], pictures)
        elif name == CALIBRATION and _varies(drawn["top1"]):
            ends = _calibration_ends(outcomes.calibration_gaps(np.ones((1, pictures)))[0], drawn["gaps"])
        elif name == CALIBRATION:
            ends = value - _unseen(pictures), value + _unseen(pictures)
        else:
            ends = _score_ends(value, drawn[name], _independent(outcomes, name))
        least, most = _range(outcomes, name)
        found[f"{name}_ci95"] = _holding(value, ends, least, most)
    return found


def paired_differences(
    first: Outcomes, second: Outcomes, *, resamples: int = 2000, flips: int = 2000, seed: int = 0
) -> dict[str, Difference]:
    """How two models differ on the same pictures: second minus first.

    1. Interval: percentiles of the difference on resamples, the same pictures for both. Where all resamples agree,
       the exact bound on what N pictures can have missed, 1 - 0.025^(1/N), to either side. Calibration error: from
       the ends of the two models' own intervals, since each figure has a bias of its own; wider than need be.
    2. p-value: how often a difference as large, of either sign, comes about when a coin decides for each picture
       which outcome is whose, captions with their picture. Exact if the models are interchangeable, for any metric.

    Args:
        first, second: of the same N pictures in the same order.
        resamples: for the interval.
        flips: for the p-value, which is 1 / (flips + 1) at least.
        seed: of all draws.
    Returns: metric -> `Difference`; metrics that only one of the two has are left out.
    Raises: ClipScratchError if the two are not of the same pictures.
    Source: Efron & Tibshirani 1993, chapters 13 and 15; Phipson & Smyth 2010 for the 1 in p = (1 + more extreme) /
        (1 + flips).

    >>> labels = np.zeros(20, int)
    >>> wrong, right = (ClassOutcomes(labels=labels, ranks=labels + rank, classes=2) for rank in (2, 1))
    >>> paired_differences(wrong, right)["top1"].p_value < 0.001
    True
    """
    _check_pair(first, second)
    pictures, both, generator = len(first), first.joined(second), np.random.default_rng(seed)

    def change(weights):
        return _minus(second.metrics(weights), first.metrics(weights))

    def swapped(swap):
        return _minus(both.metrics(np.hstack([swap, 1 - swap])), both.metrics(np.hstack([1 - swap, swap])))

    values = change(np.ones((1, pictures)))
    drawn = _measured(change, _resample, generator, pictures, resamples)
    flipped = _measured(swapped, _coins, generator, pictures, flips)
    found = {}
    for name, (value,) in values.items():
        least, most = _range(first, name)
        ends = _percentile_ends(name, drawn[name], pictures)
        if name == CALIBRATION:
            sides = (confidence_intervals(side, resamples=resamples, seed=seed) for side in (first, second))
            one, two = (side[f"{CALIBRATION}_ci95"] for side in sides)
            ends = two[0] - one[1], two[1] - one[0]
        low, high = _holding(value, ends, least - most, most - least)
        extreme = np.abs(flipped[name]) >= abs(value) - TINY
        p_value = float((1 + extreme.sum()) / (1 + flips))
        found[name] = Difference(value=float(value), low=low, high=high, p_value=p_value)
    return found


def over_seeds(runs: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Mean and sample standard deviation of every metric that all runs have; intervals (`_ci95`) are left out.

    Args:
        runs: metric -> value, of one training each, alike but for the seed.
    Raises: ClipScratchError if there are fewer than two.

    >>> over_seeds([{"top1": 0.5}, {"top1": 0.75}, {"top1": 1.0}])
    {'top1': {'mean': 0.75, 'std': 0.25, 'n': 3}}
    """
    if len(runs) < 2:
        raise ClipScratchError(f"{len(runs)} run has no spread over seeds; give the metrics of two runs at least.")
    names = [name for name in runs[0] if not name.endswith("_ci95") and all(name in run for run in runs)]
    found = {}
    for name in names:
        values = np.array([run[name] for run in runs])
        found[name] = {"mean": float(values.mean()), "std": float(values.std(ddof=1)), "n": len(runs)}
    return found


def _measured(measure, draw, generator, pictures, rows):
    """name -> (rows, ...): `measure` of weights drawn in blocks."""
    block = max(1, BLOCK // pictures)
    parts = [measure(draw(generator, min(block, rows - done), pictures)) for done in range(0, rows, block)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _resample(generator, rows, pictures):
    """(rows, pictures) counts of as many pictures drawn with replacement."""
    drawn = generator.integers(pictures, size=(rows, pictures)) + pictures * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * pictures).reshape(rows, pictures).astype(float)


def _coins(generator, rows, pictures):
    """(rows, pictures) of zeros and ones."""
    return generator.integers(2, size=(rows, pictures)).astype(float)


def _minus(second, first):
    return {name: second[name] - first[name] for name in second if name in first}


def _varies(drawn):
    return np.ptp(drawn) > TINY


def _unseen(pictures):
    """The largest share of pictures of a kind of which so many show none, but for 1 in 40 times."""
    return 1 - TAILS[0] ** (1 / pictures)


def _holding(value, ends, least, most):
    """Ends cut to the range from least to most, and stretched to hold the value."""
    return [float(min(max(ends[0], least), value)), float(max(min(ends[1], most), value))]


def _range(outcomes, name):
    if not name.endswith(MEDIAN):
        return 0.0, 1.0
    return 1.0, float(len(outcomes) if name.startswith("text") else len(outcomes.text_ranks))


def _independent(outcomes, name):
    """Number of pictures that the mean recall, or another fraction, is as sure as."""
    if name != "mean_per_class_recall":
        return len(outcomes)
    counts = np.unique_counts(outcomes.labels).counts
    return len(counts) * counts.min()


def _score_ends(value, drawn, pictures):
    """Wilson's interval of a fraction that varies as `drawn`; `pictures` is the number to take if it does not."""
    count = value * (1 - value) / drawn.var() if _varies(drawn) else pictures
    return share_interval(value, count)


def _calibration_ends(gaps, drawn):
    """Sums of (bins,) gaps, each moved by as many standard errors, that give theirs with (resamples, bins) noise."""
    value, steps = np.abs(gaps).sum(), np.append(1e9, np.linspace(4, -4, 201))  # the first leaves no gap at all
    moved = np.sign(gaps) * np.maximum(np.abs(gaps) - steps[:, None] * drawn.std(0), 0)
    least, most = np.quantile([np.abs(shape + drawn - gaps).sum(1) for shape in moved], TAILS, axis=1)
    sums = np.abs(moved).sum(1)
    return sums[most >= value - TINY].min(initial=value), sums[least <= value + TINY].max(initial=0)


def _percentile_ends(name, drawn, pictures):
    if name.endswith(MEDIAN):  # of 5 pictures all lie to one side of the median once in 16 times
        return np.quantile(drawn, TAILS).tolist() if pictures >= 6 else (-np.inf, np.inf)
    margin = 0 if _varies(drawn) else _unseen(pictures)
    low, high = np.quantile(drawn, TAILS).tolist()
    return low - margin, high + margin


def _check_pair(first, second):
    if type(first) is not type(second):
        raise ClipScratchError(
            "one model was measured by classification, the other by retrieval; compare two of a kind."
        )
    if len(first) != len(second):
        raise ClipScratchError(
            f"{len(first)} and {len(second)} pictures cannot be paired; measure both models on the same."
        )
    names = ("labels", "classes") if isinstance(first, ClassOutcomes) else ("caption_to_image",)
    if not all(np.array_equal(vars(first)[name], vars(second)[name]) for name in names):
        raise ClipScratchError(
            "the two models saw pictures of other labels or captions; measure both on the same rows in the same order."
        )
