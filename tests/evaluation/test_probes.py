"""Compare probes with votes worked out by hand, with a loop and with scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from modeling_clipscratch.evaluation.metrics import probes
from modeling_clipscratch.evaluation.metrics.probes import knn_scores, linear_probe_scores
from modeling_clipscratch.evaluation.metrics.zero_shot import accuracy_metrics


def turned(*degrees):
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def clusters(count, classes, *, spread, seed):
    """Rows around one direction a class, unit length, and their labels."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, 16))
    labels = generator.integers(0, classes, count)
    embeds = centres[labels] + spread * generator.normal(size=(count, 16))
    return embeds / np.linalg.norm(embeds, axis=1, keepdims=True), labels


def test_votes_are_those_worked_out_by_hand(monkeypatch):
    # The three nearest to 0 degrees are at 0 (class 2), 60 (class 0) and -60 (class 0): cosines 1, 1/2, 1/2.
    monkeypatch.setattr(probes, "NEIGHBOURS", 3)
    scores = knn_scores(turned(60, 0, -60, 180), np.array([0, 2, 0, 1]), turned(0), 4)
    near, far = math.exp(1 / 0.07), math.exp(0.5 / 0.07)
    expected = [2 * far / (near + 2 * far), 0.0, near / (near + 2 * far), 0.0]
    assert scores[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_votes_agree_with_a_loop():
    (train, labels), (test, _) = clusters(60, 5, spread=0.8, seed=0), clusters(20, 5, spread=0.8, seed=1)
    for row, scores in zip(test, knn_scores(train, labels, test, 5).numpy(), strict=True):
        cosines = train @ row
        votes = np.zeros(5)
        for near in np.argsort(-cosines)[:20]:
            votes[labels[near]] += math.exp(cosines[near] / 0.07)
        assert scores == pytest.approx(votes / votes.sum(), abs=1e-6)


@pytest.mark.parametrize("probe", [knn_scores, linear_probe_scores])
def test_a_class_without_training_rows_keeps_its_column_and_is_never_predicted(probe):
    train, labels = clusters(200, 3, spread=0.2, seed=0)
    shifted = np.array([1, 3, 4])[labels]  # classes 0, 2 and 5 have no rows
    test, answers = clusters(50, 3, spread=0.2, seed=1)
    scores, few = probe(train, shifted, test, 6), probe(train, labels, test, 3)
    assert scores.shape == (50, 6) and torch.equal(scores[:, [1, 3, 4]], few)
    assert accuracy_metrics(scores, np.array([1, 3, 4])[answers])["top1"] == 1.0
    assert accuracy_metrics(scores, np.zeros(50))["top1"] == 0.0


def test_linear_scores_are_log_probabilities_and_the_same_each_time():
    train, labels = clusters(200, 4, spread=1.0, seed=0)
    scores = linear_probe_scores(train, labels, train[:20], 4)
    assert torch.allclose(scores.exp().sum(1), torch.ones(20), atol=1e-5)
    assert torch.equal(scores, linear_probe_scores(train, labels, train[:20], 4))


def test_regularisation_is_chosen_where_it_matters():
    """A quarter of the training labels is wrong; a probe without regularisation learns them."""
    generator = np.random.default_rng(0)
    answers = generator.integers(0, 2, 1000)
    embeds = generator.normal(size=(1000, 200)) + 0.15 * (2 * answers[:, None] - 1)
    labels = np.where(generator.random(1000) < 0.25, 1 - answers, answers)
    found = linear_probe_scores(embeds[:400], labels[:400], embeds[400:], 2)
    loose = LogisticRegression(C=1e6, max_iter=1000).fit(embeds[:400], labels[:400])
    right = accuracy_metrics(found, answers[400:])["top1"]
    assert right > loose.score(embeds[400:], answers[400:]) + 0.1


def test_a_linear_probe_of_classes_of_one_row_is_refused():
    with pytest.raises(ValueError, match="a class of two rows"):
        linear_probe_scores(np.eye(3), np.arange(3), np.eye(3), 3)
