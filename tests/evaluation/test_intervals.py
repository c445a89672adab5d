"""Outcomes of known spread go in; intervals and p-values must be those of SciPy, of exact tests and of hand work."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from benchmarks import coverage
from modeling_clipscratch.evaluation.metrics import intervals
from modeling_clipscratch.evaluation.metrics.intervals import confidence_intervals, over_seeds, paired_differences
from modeling_clipscratch.evaluation.metrics.outcomes import ClassOutcomes, RetrievalOutcomes, plain_metrics


def of_right(right, labels=None, classes=2):
    """Outcomes of pictures that are right or wrong, in one class unless said."""
    right = np.asarray(right, dtype=bool)
    labels = np.zeros(len(right), int) if labels is None else labels
    return ClassOutcomes(labels=labels, ranks=2 - right.astype(int), classes=classes)


def of_ranks(text_ranks, captions=1):
    """Retrieval of pictures with as many captions each, whose own rank is that of their best caption."""
    text_ranks = np.asarray(text_ranks)
    return RetrievalOutcomes(
        image_ranks=text_ranks.reshape(-1, captions).min(1),
        text_ranks=text_ranks,
        caption_to_image=np.repeat(np.arange(len(text_ranks) // captions), captions),
    )


def width(interval):
    return interval[1] - interval[0]


@pytest.mark.parametrize("right", [180, 340, 351])
def test_interval_of_a_proportion_is_wilsons(right):
    found = confidence_intervals(of_right(np.arange(360) < right))["top1_ci95"]
    expected = binomtest(right, 360).proportion_ci(method="wilson")
    # The variance of 2,000 resamples is off by some 3 %, the width by half of that.
    assert found == pytest.approx([expected.low, expected.high], abs=0.05 * (expected.high - expected.low))


@pytest.mark.parametrize("right", [0, 50])
def test_all_right_and_all_wrong_are_bounded_by_the_number_of_pictures(right):
    found = confidence_intervals(of_right(np.arange(50) < right))["top1_ci95"]
    expected = binomtest(right, 50).proportion_ci(method="wilson")
    assert found == pytest.approx([expected.low, expected.high], abs=1e-12)


def test_mean_recall_without_errors_is_only_as_sure_as_its_smallest_class():
    labels = np.repeat([0, 1], [95, 5])
    found = confidence_intervals(of_right(np.ones(100), labels))
    expected = binomtest(10, 10).proportion_ci(method="wilson")
    assert found["mean_per_class_recall_ci95"] == pytest.approx([expected.low, 1.0], abs=1e-12)
    assert width(found["top1_ci95"]) < width(found["mean_per_class_recall_ci95"])


def test_percentile_interval_of_a_mean_is_that_of_scipy():
    right = np.random.default_rng(0).random(300) < 0.7
    found = paired_differences(of_right(np.zeros(300)), of_right(right), flips=1)["top1"]
    expected = bootstrap((right,), np.mean, n_resamples=2000, method="percentile", rng=1).confidence_interval
    # Ends of 2,000 resamples have a standard error of 0.06 of the metric's own, here 0.026; and pictures are whole.
    assert [found.low, found.high] == pytest.approx([expected.low, expected.high], abs=4 * 0.09 * 0.026 + 1 / 300)


def test_five_copies_of_a_caption_are_worth_one():
    ranks = np.random.default_rng(1).geometric(0.3, 400)
    alone = confidence_intervals(of_ranks(ranks))
    copies = confidence_intervals(of_ranks(np.repeat(ranks, 5), captions=5))
    shuffled = np.random.default_rng(2).permutation(np.repeat(ranks, 5))
    apart = confidence_intervals(of_ranks(shuffled, captions=5))
    name = "text_to_image_recall@1_ci95"
    assert copies[name] == pytest.approx(alone[name], abs=1e-9)
    assert width(copies[name]) / width(apart[name]) == pytest.approx(5**0.5, rel=0.15)  # chance of the shuffle


def test_fewer_than_six_pictures_bound_no_median():
    few, six = of_ranks(np.repeat([1, 2, 2, 3, 3], 2), captions=2), of_ranks([2] * 6)
    assert confidence_intervals(few)["image_to_text_median_rank_ci95"] == [1.0, 10.0]
    assert confidence_intervals(few)["text_to_image_median_rank_ci95"] == [1.0, 5.0]
    assert confidence_intervals(six)["text_to_image_median_rank_ci95"] == [2.0, 2.0]


def calibrated(seed, pictures, overstated=0.0):
    generator = np.random.default_rng(seed)
    chance = generator.beta(4, 1, pictures)
    outcomes = of_right(generator.random(pictures) < chance)
    return replace(outcomes, confidence=chance + overstated * (1 - chance))


def test_a_calibrated_model_may_have_no_calibration_error_and_a_boastful_one_has():
    name = "expected_calibration_error_ci95"
    assert confidence_intervals(calibrated(0, 2000))[name][0] == 0.0
    low, high = confidence_intervals(calibrated(0, 2000, overstated=0.5))[name]
    assert low > 0.05 and low < 0.5 * 0.2 < high


def test_calibration_of_pictures_that_are_all_right_is_bounded_by_their_number():
    outcomes = replace(of_right(np.ones(100)), confidence=np.full(100, 0.98))
    # 1 - 0.025^(1/100) = 0.0362 of the pictures may be wrong without one among 100.
    low, high = confidence_intervals(outcomes)["expected_calibration_error_ci95"]
    assert (low, high) == (0.0, pytest.approx(0.02 + 0.0362, abs=1e-4))


def test_the_difference_of_a_calibrated_and_a_boastful_model_is_not_drawn_to_zero_by_the_bias_of_one():
    held = []
    for seed in range(60):
        first, second = calibrated(seed, 1000), calibrated(seed, 1000, overstated=0.3)
        found = paired_differences(first, second, resamples=200, flips=1)["expected_calibration_error"]
        held.append(found.low <= 0.3 * 0.2 <= found.high)
    assert np.mean(held) > 0.95 - 3.5 * (0.95 * 0.05 / 60) ** 0.5  # percentiles of resamples hold it in few


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
def test_every_interval_is_finite_within_its_range_and_holds_its_figure(outcomes):
    found, values = confidence_intervals(outcomes, resamples=200), plain_metrics(outcomes)
    assert found.keys() == {f"{name}_ci95" for name in values}
    for name, value in values.items():
        low, high = found[f"{name}_ci95"]
        least, most = (1, len(outcomes.text_ranks)) if "rank" in name else (0, 1)
        assert np.isfinite([low, high]).all() and least <= low <= value <= high <= most, name
        assert "rank" in name or low < high, name
    for name, same in paired_differences(outcomes, outcomes, resamples=200, flips=20).items():
        assert same.value == 0 and same.p_value == 1 and same.low <= 0 <= same.high, name


def test_the_same_seed_gives_the_same_and_blocks_of_any_size_do(monkeypatch):
    outcomes = replace(calibrated(2, 50), confidence=None)
    first = confidence_intervals(outcomes, resamples=300)
    assert confidence_intervals(outcomes, resamples=300) == first
    assert confidence_intervals(outcomes, resamples=300, seed=1) != first
    monkeypatch.setattr(intervals, "BLOCK", 7 * 50)
    assert confidence_intervals(outcomes, resamples=300) == first


@pytest.mark.parametrize("better", [8, 14, 20])
def test_the_randomisation_test_is_mcnemars(better):
    first = of_right(np.arange(60) < 20)
    second = of_right((np.arange(60) < 12) | (np.arange(60) >= 60 - better))  # 8 lost, `better` won
    found = paired_differences(first, second, resamples=10, flips=10_000)["top1"]
    expected = binomtest(better, better + 8).pvalue
    assert found.value == pytest.approx((better - 8) / 60)
    assert found.p_value == pytest.approx(expected, abs=4 * (expected / 10_000) ** 0.5 + 1e-3)


def test_a_clear_difference_has_the_smallest_p_value_and_an_interval_off_zero():
    first, second = of_ranks(np.arange(1, 101)), of_ranks(np.arange(1, 101) // 4 + 1)
    for name, found in paired_differences(first, second, flips=500).items():
        better = found.high < 0 if "rank" in name else found.low > 0
        assert better and found.p_value == 1 / 501 or name.endswith("@1"), name


def test_p_values_of_models_alike_are_uniform():
    generator, found = np.random.default_rng(3), []
    for seed in range(200):
        ranks = generator.geometric(generator.beta(2, 4, 60)[:, None], (60, 2))
        pair = [replace(of_right(ranks[:, side] == 1), confidence=generator.random(60)) for side in (0, 1)]
        differences = paired_differences(*pair, resamples=2, flips=99, seed=seed)
        found.append(differences["expected_calibration_error"].p_value)
    # 0.5 and 0.05 within 3.5 standard errors of 200 draws.
    assert abs(np.mean(found) - 0.5) < 3.5 * 12**-0.5 / 200**0.5
    assert abs(np.mean(np.array(found) <= 0.05) - 0.05) < 3.5 * (0.05 * 0.95 / 200) ** 0.5


def test_what_cannot_be_paired_is_named():
    with pytest.raises(ValueError, match="one model was measured by classification, the other by retrieval"):
        paired_differences(of_right([1]), of_ranks([1]))
    with pytest.raises(ValueError, match="1 and 2 pictures cannot be paired"):
        paired_differences(of_right([1]), of_right([1, 0]))
    with pytest.raises(ValueError, match="other labels or captions"):
        paired_differences(of_right([1, 1]), of_right([1, 1], np.array([0, 1])))
    with pytest.raises(ValueError, match="other labels or captions"):
        paired_differences(of_ranks([1, 1, 1, 1], captions=2), replace(of_ranks([1, 1]), text_ranks=np.ones(4, int)))


def test_metrics_that_only_one_model_has_are_left_out():
    first = calibrated(4, 30)
    assert set(paired_differences(first, replace(first, confidence=None))) == {"top1", "mean_per_class_recall"}


def test_spread_over_seeds_is_the_sample_deviation_and_needs_two():
    runs = [{"top1": 0.9, "top1_ci95": [0.8, 1.0], "top5": 1.0}, {"top1": 0.7}]
    assert over_seeds(runs) == {"top1": {"mean": pytest.approx(0.8), "std": pytest.approx(0.02**0.5), "n": 2}}
    with pytest.raises(ValueError, match="two runs"):
        over_seeds(runs[:1])


@pytest.mark.parametrize(
    "setting",
    ["1,000 pictures, unequal classes, calibrated", "360 pictures", "1,000 pictures x 5 captions, easy"],
)
def test_intervals_of_simulated_models_hold_the_truth_as_often_as_they_say(setting, monkeypatch):
    """In small: 200 draws, resamples and pictures; `python -m benchmarks.coverage` has the real ones."""
    monkeypatch.setattr(coverage, "RESAMPLES", 200)
    (source,) = [source for name, (source, _) in coverage.SINGLE.items() if name.startswith(setting)]
    for (name, _), draws in coverage.single(source, 200, draws=200).items():
        share = np.mean([held for held, _ in draws])
        if name.startswith("(captions on their own)"):
            assert share < 0.92, name
        else:
            assert share > 0.95 - 3.5 * (0.95 * 0.05 / 200) ** 0.5, name
