"""Outcomes of a few pictures go in; weights and joins must give what literally repeated pictures give."""

from dataclasses import replace

import numpy as np
import pytest

from modeling_clipscratch.evaluation.metrics.outcomes import (
    ClassOutcomes,
    RetrievalOutcomes,
    plain_metrics,
    weighted_median,
)


def class_outcomes(seed, pictures=40, classes=7):
    generator = np.random.default_rng(seed)
    return ClassOutcomes(
        labels=generator.integers(classes - 1, size=pictures),  # the last class has no picture
        ranks=generator.integers(1, classes + 1, pictures),
        classes=classes,
        confidence=generator.random(pictures),
    )


def retrieval_outcomes(seed, pictures=30):
    """1 to 5 captions a picture, in no order."""
    generator = np.random.default_rng(seed)
    owners = generator.permutation(np.repeat(np.arange(pictures), generator.integers(1, 6, pictures)))
    return RetrievalOutcomes(
        image_ranks=generator.integers(1, 25, pictures),
        text_ranks=generator.integers(1, 25, len(owners)),
        caption_to_image=owners,
    )


def repeated(outcomes, counts):
    """The outcomes with each picture as often as counted, as a plain loop lays them out."""
    if isinstance(outcomes, ClassOutcomes):
        places = np.repeat(np.arange(len(outcomes)), counts)
        return replace(
            outcomes,
            labels=outcomes.labels[places],
            ranks=outcomes.ranks[places],
            confidence=outcomes.confidence[places],
        )
    image_ranks, text_ranks, owners = [], [], []
    for picture, count in enumerate(counts):
        for _ in range(count):
            own = outcomes.text_ranks[outcomes.caption_to_image == picture]
            owners += [len(image_ranks)] * len(own)
            text_ranks += own.tolist()
            image_ranks.append(outcomes.image_ranks[picture])
    return RetrievalOutcomes(
        image_ranks=np.array(image_ranks), text_ranks=np.array(text_ranks), caption_to_image=np.array(owners)
    )


KINDS = [class_outcomes, retrieval_outcomes]


@pytest.mark.parametrize("made", KINDS)
def test_weights_give_the_metrics_of_literally_repeated_pictures(made):
    outcomes, generator = made(0), np.random.default_rng(1)
    counts = generator.multinomial(len(outcomes), np.full(len(outcomes), 1 / len(outcomes)), size=20)
    found = outcomes.metrics(counts.astype(float))
    for row, count in enumerate(counts):
        expected = plain_metrics(repeated(outcomes, count))
        assert {name: values[row] for name, values in found.items()} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("made", KINDS)
def test_no_weights_are_weights_of_one(made):
    outcomes = made(2)
    ones = outcomes.metrics(np.ones((1, len(outcomes))))
    assert {name: values[0] for name, values in ones.items()} == plain_metrics(outcomes)


def test_metrics_of_a_resample_are_those_worked_out_by_hand():
    outcomes = ClassOutcomes(labels=np.array([0, 0, 1]), ranks=np.array([1, 2, 1]), classes=2)
    found = outcomes.metrics(np.array([[0.0, 3.0, 0.0], [1.0, 1.0, 1.0], [2.0, 0.0, 1.0]]))
    assert found["top1"].tolist() == [0.0, 2 / 3, 1.0]
    # The first resample shows class 0 only: a class without pictures is left out.
    assert found["mean_per_class_recall"].tolist() == [0.0, 0.75, 1.0]


@pytest.mark.parametrize("made", KINDS)
def test_each_half_of_joined_outcomes_has_the_metrics_it_had(made):
    first = made(3)
    if isinstance(first, ClassOutcomes):
        second = replace(made(4), labels=first.labels)
    else:
        second = replace(first, image_ranks=made(4).image_ranks, text_ranks=first.text_ranks[::-1])
    both, ones = first.joined(second), np.ones((1, len(first)))
    for outcomes, weights in ((first, [ones, 0 * ones]), (second, [0 * ones, ones])):
        found = both.metrics(np.hstack(weights))
        assert {name: values[0] for name, values in found.items()} == pytest.approx(plain_metrics(outcomes), abs=1e-12)


def test_joined_outcomes_have_confidences_only_if_both_have():
    first = class_outcomes(5)
    assert first.joined(first).confidence.shape == (80,)
    assert first.joined(replace(first, confidence=None)).confidence is None


@pytest.mark.parametrize("seed", range(3))
def test_weighted_median_is_the_median_of_repeated_values(seed):
    generator = np.random.default_rng(seed)
    values, weights = generator.integers(1, 9, 12), generator.integers(0, 4, (50, 12))
    expected = [np.median(np.repeat(values, counts)) for counts in weights]
    assert weighted_median(values, weights).tolist() == expected
