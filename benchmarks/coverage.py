"""Count how often the 95 % intervals hold the true metrics of simulated models, beside those of scipy's bootstrap.

`python -m benchmarks.coverage --draws 1000` (`--scipy_draws 0` leaves the bootstrap out, which takes most of the time).
A right interval holds the truth in 95 % of the draws; a right test finds p < 0.05 in at most 5 % of them where two
models are alike. With 1,000 draws, either share has a standard error of 0.7 %.
"""

from collections import defaultdict
from math import exp, lgamma

import numpy as np
from scipy.special import betaincc
from scipy.stats import bootstrap

from modeling_clipscratch.cli.command_line import run_command
from modeling_clipscratch.evaluation.metrics.intervals import confidence_intervals, paired_differences
from modeling_clipscratch.evaluation.metrics.outcomes import RECALLS, ClassOutcomes, RetrievalOutcomes

from .reporting import machine, parser_of, print_table, save_figures

RESAMPLES = 1000  # of the bootstrap
FLIPS = 1000
CLASSES, CAPTIONS = 10, 5
UNEQUAL = np.arange(1, CLASSES + 1) / 55
EQUAL = np.full(CLASSES, 1 / CLASSES)
BETA = 4  # an image's chance of being right is drawn from Beta(BETA p, BETA (1 - p)), p that of its class


class Classification:
    """Images whose chance of being right is drawn; the model states this chance, or more from `overconfident` on.

    Args:
        accuracy: top-1.
        spread: the classes' recalls lie as far to both sides of it.
        shares: (C,) of the classes.
        overconfident: from this chance on, `excess` of the distance to 1 is added to what the model states.
        better: part of the distance to 1 that a second model is better by.
    """

    def __init__(self, accuracy, spread, shares, overconfident=1.0, excess=0.0, better=0.0):
        tilt = np.linspace(-1, 1, CLASSES)
        self.recalls, self.shares = accuracy + spread * (tilt - shares @ tilt), shares
        self.overconfident, self.excess, self.better = overconfident, excess, better

    def draw(self, generator, images):
        """Outcomes of two models on the same images."""
        labels = generator.choice(CLASSES, images, p=self.shares)
        mean = self.recalls[labels]
        chance = generator.beta(BETA * mean, BETA * (1 - mean))
        stated = chance + self.excess * (1 - chance) * (chance > self.overconfident)
        for better in (0, self.better):
            right = generator.random(images) < chance + better * (1 - chance)
            ranks = np.where(right, 1, generator.integers(2, CLASSES + 1, images))
            yield ClassOutcomes(labels=labels, ranks=ranks, classes=CLASSES, confidence=stated)

    def truth(self, better=0.0):
        recalls = self.recalls + better * (1 - self.recalls)
        top1 = self.shares @ recalls
        # E[(1 - chance) 1(chance > x)] of a Beta(a, b) is its mean of 1 - chance times that of a Beta(a, b + 1).
        above = betaincc(BETA * self.recalls, BETA * (1 - self.recalls) + 1, self.overconfident)
        excess = self.excess * self.shares @ ((1 - self.recalls) * above)
        # Where a better second model states too much everywhere, it does so by as much less.
        error = excess - better * (1 - self.shares @ self.recalls)
        return {
            "top1": top1,
            "top5": top1 + (1 - top1) * 4 / (CLASSES - 1),
            "mean_per_class_recall": recalls.mean(),
            "expected_calibration_error": error,
        }


class Retrieval:
    """Images whose ease is drawn from Beta(a, b); given it, the ranks of captions are geometric and independent.

    Then P(rank > k) = E[(1 - ease)^k] = B(a, b + k) / B(a, b). A image's own rank is as the better of two captions';
    a second model's are as the better of `better` captions'.
    """

    def __init__(self, a, b, better=1.0):
        self.a, self.b, self.better = a, b, better

    def draw(self, generator, images):
        ease = generator.beta(self.a, self.b, images)
        owners = np.repeat(np.arange(images), CAPTIONS)
        for better in (1, self.better):
            yield RetrievalOutcomes(
                image_ranks=generator.geometric(1 - (1 - ease) ** (2 * better)),
                text_ranks=generator.geometric((1 - (1 - ease) ** better)[owners]),
                caption_to_image=owners,
            )

    def above(self, k):
        a, b = self.a, self.b
        return exp(lgamma(b + k) - lgamma(a + b + k) - lgamma(b) + lgamma(a + b))

    def truth(self, better=1.0):
        found = {}
        for direction, power in (("image_to_text", 2 * better), ("text_to_image", better)):
            found |= {f"{direction}_recall@{k}": 1 - self.above(power * k) for k in RECALLS}
            median = next(rank for rank in range(1, 10_000) if self.above(power * rank) < 0.5)
            found[f"{direction}_median_rank"] = median
        return found


SINGLE = {  # setting -> source, images
    "1,000 images, unequal classes, calibrated": (Classification(0.5, 0.2, UNEQUAL), 1000),
    "1,000 images, unequal classes, overconfident": (Classification(0.9, 0.08, UNEQUAL, 0, 0.3), 1000),
    "360 images, equal classes, overconfident above 0.9": (Classification(0.975, 0.02, EQUAL, 0.9, 0.5), 360),
    "1,000 images x 5 captions, easy": (Retrieval(2, 2.5), 1000),
    "1,000 images x 5 captions, hard": (Retrieval(1, 40.5), 1000),
}
PAIRS = {
    "1,000 images, two alike": (Classification(0.8, 0.1, UNEQUAL, 0, 0.5), 1000),
    "1,000 images, second better": (Classification(0.8, 0.1, UNEQUAL, 0, 0.5, better=0.2), 1000),
    "360 images, two alike": (Classification(0.975, 0.02, EQUAL), 360),
    "200 images x 5 captions, two alike": (Retrieval(2, 2.5), 200),
    "200 images x 5 captions, second better": (Retrieval(2, 2.5, better=1.3), 200),
}


def single(source, images, draws, scipy_draws=0):
    """(metric, truth) -> list of (covered, width), one for each draw."""
    truth, found = source.truth(), defaultdict(list)
    for seed in range(draws):
        outcomes = next(source.draw(np.random.default_rng([seed, images]), images))
        intervals = confidence_intervals(outcomes)
        if isinstance(outcomes, RetrievalOutcomes):
            name = "text_to_image_recall@1"
            alone = ClassOutcomes(labels=0 * outcomes.text_ranks, ranks=outcomes.text_ranks, classes=1)
            ends = confidence_intervals(alone)["top1_ci95"]
            found[f"(captions as independent) {name}", truth[name]].append(_held(*ends, truth[name]))
        for name, value in truth.items():
            found[name, value].append(_held(*intervals[f"{name}_ci95"], value))
            if seed < scipy_draws and name in BOOTSTRAPPED:
                for method in ("percentile", "BCa"):
                    ends = bootstrapped(outcomes, name, method, seed)
                    found[f"({method}, scipy) {name}", value].append(_held(*ends, value))
    return found


BOOTSTRAPPED = ("top1", "expected_calibration_error", "text_to_image_recall@1", "text_to_image_median_rank")


def bootstrapped(outcomes, name, method, seed):
    """The interval of `scipy.stats.bootstrap`, which draws images, each with its captions (of equal number here)."""
    if isinstance(outcomes, ClassOutcomes):
        columns = [outcomes.ranks <= 1, outcomes.confidence]

        def statistic(rows, axis=-1):
            right, confidence = (column[rows] for column in columns)
            if name == "top1":
                return right.mean(-1)
            labels = np.zeros(rows.shape[-1], dtype=int)
            drawn = ClassOutcomes(labels=labels, ranks=np.where(right, 1, 2), classes=2, confidence=confidence)
            return np.abs(drawn.calibration_gaps()).sum(-1)
    else:
        ranks = outcomes.text_ranks.reshape(len(outcomes), CAPTIONS)

        def statistic(rows, axis=-1):
            drawn = ranks[rows].reshape(*rows.shape[:-1], -1)
            return np.median(drawn, axis=-1) if "median" in name else (drawn <= 1).mean(-1)

    rows, options = (np.arange(len(outcomes)),), {"n_resamples": RESAMPLES, "vectorized": True, "batch": 100}
    return bootstrap(rows, statistic, method=method, rng=np.random.default_rng(seed), **options).confidence_interval


def pairs(source, images, draws, scipy_draws=0, flips=FLIPS):
    """(metric, true difference) -> list of (covered, width, p < 0.05), one for each draw."""
    before, after, found = source.truth(), source.truth(source.better), defaultdict(list)
    for seed in range(draws):
        first, second = source.draw(np.random.default_rng([seed, images]), images)
        for name, difference in paired_differences(first, second, flips=flips, seed=seed).items():
            change = after[name] - before[name]
            held = _held(difference.low, difference.high, change)
            found[name, change].append((*held, difference.p_value < 0.05))
    return found


def _held(low, high, value):
    return low - 1e-9 <= value <= high + 1e-9, high - low


def main(arguments: list[str]) -> None:
    parser = parser_of("coverage")
    parser.add_argument("--draws", type=int, default=1000, help="simulated test sets for each setting")
    parser.add_argument(
        "--scipy_draws", type=int, default=200, help="of them, those that scipy's bootstrap is tried on"
    )
    options = parser.parse_args(arguments)
    rows = []
    for measure, settings in ((single, SINGLE), (pairs, PAIRS)):
        for setting, (source, images) in settings.items():
            measured = measure(source, images, options.draws, options.scipy_draws)
            for (name, truth), draws in measured.items():
                covered, width, *small = np.mean(np.array(draws, dtype=float), axis=0)
                figures = [f"{truth:.4g}", f"{100 * covered:.1f} %", f"{width:.4f}"]
                rows.append([name, setting, *figures, f"{100 * small[0]:.1f} %" if small else "-"])
                print("\t".join(rows[-1]), flush=True)
    head = ["metric", "setting", "truth", "coverage", "mean width", "p < 0.05"]
    print_table(head, rows)
    print(machine())
    save_figures(options.output / "coverage.json", {"draws": options.draws, "head": head, "rows": rows})


if __name__ == "__main__":
    run_command(main)
