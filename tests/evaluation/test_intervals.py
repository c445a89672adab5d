"""Compare intervals and p-values with those of SciPy, of exact tests and of simulated models."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from modeling_clipscratch.evaluation.metrics.intervals import confidence_intervals, paired_differences
from modeling_clipscratch.evaluation.metrics.outcomes import ClassOutcomes, RetrievalOutcomes, Share


def of_right(right, labels=None, classes=2):
    """Outcomes of images that are right or wrong, in one class by default."""
    right = np.asarray(right, dtype=bool)
    labels = np.zeros(len(right), int) if labels is None else labels
    return ClassOutcomes(labels=labels, ranks=2 - right.astype(int), classes=classes)


def of_ranks(text_ranks, captions=1):
    """Retrieval of images with as many captions each, whose own rank is that of their best caption."""
    text_ranks = np.asarray(text_ranks)
    return RetrievalOutcomes(
        image_ranks=text_ranks.reshape(-1, captions).min(1),
        text_ranks=text_ranks,
        caption_to_image=np.repeat(np.arange(len(text_ranks) // captions), captions),
    )


def calibrated(seed, images, overstated=0.0):
    generator = np.random.default_rng(seed)
    chance = generator.beta(4, 1, images)
    outcomes = of_right(generator.random(images) < chance)
    return replace(outcomes, confidence=chance + overstated * (1 - chance))


def width(interval):
    return interval[1] - interval[0]


@pytest.mark.parametrize(("right", "images"), [(180, 360), (351, 360), (50, 50), (0, 50)])
def test_interval_of_a_proportion_is_wilsons(right, images):
    found = confidence_intervals(of_right(np.arange(images) < right))["top1_ci95"]
    expected = binomtest(right, images).proportion_ci(method="wilson")
    assert found == pytest.approx([expected.low, expected.high], abs=1e-9)


def test_mean_recall_without_errors_is_only_as_sure_as_its_smallest_class():
    outcomes = of_right(np.ones(100), np.repeat([0, 1], [95, 5]))
    expected = binomtest(10, 10).proportion_ci(method="wilson")
    assert confidence_intervals(outcomes)["mean_per_class_recall_ci95"] == pytest.approx([expected.low, 1.0], abs=1e-9)


@pytest.mark.parametrize("metric", ["top1", "mean_per_class_recall", "text_to_image_recall@1"])
def test_variance_of_a_share_is_that_of_scipys_bootstrap_of_images(metric):
    generator = np.random.default_rng(0)
    if metric == "text_to_image_recall@1":
        hits = generator.random((300, 5)) < generator.beta(1, 1, (300, 1))
        share = Share(hits.ravel(), np.repeat(np.arange(300), 5))
        columns, measure = (hits.mean(1),), lambda hits, axis: hits.mean(axis)
    else:
        labels = generator.integers(0, 3, 300)
        hits = generator.random(300) < np.array([0.3, 0.6, 0.9])[labels]
        share = Share(hits, groups=labels if metric != "top1" else None)
        columns = (hits, labels if metric != "top1" else 0 * labels)

        def measure(hits, labels, axis):
            shown = [labels == label for label in np.unique(columns[1])]
            return np.mean([(hits & of).sum(axis) / of.sum(axis) for of in shown], axis=0)

    expected = bootstrap(columns, measure, paired=True, n_resamples=4000, rng=0, method="percentile").standard_error
    # 4,000 resamples estimate a standard error to some 1 %.
    assert (share.influence() ** 2).sum() ** 0.5 == pytest.approx(expected, rel=0.05)


def test_five_copies_of_a_caption_count_as_one():
    ranks = np.random.default_rng(1).geometric(0.3, 400)
    alone = confidence_intervals(of_ranks(ranks))
    copies = confidence_intervals(of_ranks(np.repeat(ranks, 5), captions=5))
    shuffled = np.random.default_rng(2).permutation(np.repeat(ranks, 5))
    apart = confidence_intervals(of_ranks(shuffled, captions=5))
    for name in ("text_to_image_recall@1_ci95", "text_to_image_median_rank_ci95"):
        assert copies[name] == pytest.approx(alone[name], abs=1e-9)
    name = "text_to_image_recall@1_ci95"
    assert width(copies[name]) / width(apart[name]) == pytest.approx(5**0.5, rel=0.15)  # chance of the shuffle


def test_fewer_than_six_images_bound_no_median():
    few, six = of_ranks(np.repeat([1, 2, 2, 3, 3], 2), captions=2), of_ranks([2] * 6)
    assert confidence_intervals(few)["image_to_text_median_rank_ci95"] == [1.0, 10.0]
    assert confidence_intervals(few)["text_to_image_median_rank_ci95"] == [1.0, 5.0]
    assert confidence_intervals(six)["text_to_image_median_rank_ci95"] == [2.0, 2.0]


def test_calibration_intervals_separate_calibrated_from_overconfident_models():
    name = "expected_calibration_error_ci95"
    assert confidence_intervals(calibrated(0, 2000))[name][0] == 0.0
    low, high = confidence_intervals(calibrated(0, 2000, overstated=0.5))[name]
    assert low > 0.05 and low < 0.5 * 0.2 < high
    # All right: 1 - 0.025^(1/100) = 0.0362 of the images may be wrong without one among 100.
    outcomes = replace(of_right(np.ones(100)), confidence=np.full(100, 0.98))
    assert confidence_intervals(outcomes)[name] == [0.0, pytest.approx(0.02 + 0.0362, abs=1e-4)]


@pytest.mark.parametrize(
    "outcomes",
    [
        of_right([1]),
        of_right([0]),
        replace(of_right([1]), confidence=np.array([1.0])),
        replace(of_right([0, 1, 1], np.array([0, 0, 6]), classes=8), confidence=np.array([0.2, 0.9, 1.0])),
        calibrated(1, 7),
        of_ranks([1, 1], captions=2),
        of_ranks([1, 1, 2, 3, 3, 3], captions=2),
    ],
)
def test_every_interval_is_finite_in_its_range_and_holds_its_figure(outcomes):
    found, values = confidence_intervals(outcomes), outcomes.metrics()
    assert found.keys() == {f"{name}_ci95" for name in values}
    for name, value in values.items():
        low, high = found[f"{name}_ci95"]
        least, most = (1, len(outcomes.text_ranks)) if "rank" in name else (0, 1)
        assert np.isfinite([low, high]).all() and least <= low <= value <= high <= most, name
        assert "rank" in name or low < high, name
    for name, same in paired_differences(outcomes, outcomes, flips=20).items():
        assert same.value == 0 and same.p_value == 1 and same.low <= 0 <= same.high, name


@pytest.mark.parametrize("better", [8, 14, 20])
def test_the_permutation_test_is_mcnemars(better):
    """Of images that one model alone has right, as many as a coin gives."""
    first, second = of_right(np.arange(60) < 20), of_right((np.arange(60) < 10) | (np.arange(60) >= 60 - better))
    found = paired_differences(first, second, flips=20_000)["top1"].p_value
    expected = binomtest(better, better + 10).pvalue
    assert found == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 20_000) ** 0.5 + 1e-4)


def test_p_values_of_equal_models_are_uniform():
    found = []
    for seed in range(60):
        first, second = calibrated(seed, 60), calibrated(seed + 1000, 60)
        found.append(paired_differences(first, second, flips=99, seed=seed)["expected_calibration_error"].p_value)
    # 0.5 and 0.05 within 3.5 standard errors of 60 draws.
    assert abs(np.mean(found) - 0.5) < 3.5 * 12**-0.5 / 60**0.5
    assert abs(np.mean(np.array(found) <= 0.05) - 0.05) < 3.5 * (0.05 * 0.95 / 60) ** 0.5


def test_captions_are_exchanged_with_their_image():
    first, second = of_ranks([1, 2, 3, 4], captions=2), of_ranks([5, 6, 7, 8], captions=2)
    found = first.exchanged(second, np.array([True, False]))
    assert found.text_ranks.tolist() == [5, 6, 3, 4] and found.image_ranks.tolist() == [5, 3]


def test_metrics_that_only_one_model_has_are_left_out():
    first = calibrated(4, 30)
    assert set(paired_differences(first, replace(first, confidence=None))) == {"top1", "mean_per_class_recall"}
