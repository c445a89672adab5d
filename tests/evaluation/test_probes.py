"""Compare probes with votes worked out by hand, with a loop and with scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from modeling_clipscratch.evaluation.metrics.probes import knn_scores, linear_probe_scores
from modeling_clipscratch.evaluation.metrics.zero_shot import accuracy_metrics


def turned(*degrees):
    angles = torch.tensor(degrees, dtype=torch.float64) * math.pi / 180
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def clusters(count, classes, *, spread, seed):
    """Rows around one direction a class, unit length, and their labels."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, 16))
    labels = generator.integers(0, classes, count)
    embeds = centres[labels] + spread * generator.normal(size=(count, 16))
    return torch.tensor(embeds / np.linalg.norm(embeds, axis=1, keepdims=True)), torch.tensor(labels)


def test_votes_are_those_worked_out_by_hand():
    # The three nearest to 0 degrees are at 0 (class 2), 60 (class 0) and -60 (class 0): cosines 1, 1/2, 1/2.
    scores = knn_scores(turned(60, 0, -60, 180), torch.tensor([0, 2, 0, 1]), turned(0), 4, neighbours=3)
    near, far = math.exp(1 / 0.07), math.exp(0.5 / 0.07)
    expected = [2 * far / (near + 2 * far), 0.0, near / (near + 2 * far), 0.0]
    assert scores[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_votes_agree_with_a_loop():
    train, labels = clusters(60, 5, spread=0.8, seed=0)
    test, _ = clusters(20, 5, spread=0.8, seed=1)
    found = knn_scores(train, labels, test, 5, neighbours=7)
    for row, scores in zip(test.numpy(), found.numpy(), strict=True):
        cosines = train.numpy() @ row
        votes = np.zeros(5)
        for near in np.argsort(-cosines)[:7]:
            votes[labels[near]] += math.exp(cosines[near] / 0.07)
        assert scores == pytest.approx(votes / votes.sum(), abs=1e-5)  # the embeddings are read as float32


def test_the_length_of_an_embedding_does_not_change_its_neighbours():
    train, labels = clusters(60, 5, spread=0.8, seed=0)
    lengths = torch.rand(60, 1, generator=torch.Generator().manual_seed(0)) + 0.5
    same = knn_scores(train * lengths, labels, train[:9] * 7, 5)
    assert torch.allclose(same, knn_scores(train, labels, train[:9], 5), atol=1e-5)


@pytest.mark.parametrize("probe", [knn_scores, linear_probe_scores])
def test_separate_classes_are_recognised(probe):
    train, labels = clusters(200, 7, spread=0.2, seed=0)
    test, answers = clusters(100, 7, spread=0.2, seed=1)
    assert accuracy_metrics(probe(train, labels, test, 7), answers) == {
        "top1": 1.0,
        "top5": 1.0,
        "mean_per_class_recall": 1.0,
    }


@pytest.mark.parametrize("probe", [knn_scores, linear_probe_scores])
def test_a_class_without_training_rows_keeps_its_column_and_is_never_predicted(probe):
    train, labels = clusters(200, 3, spread=0.2, seed=0)
    shifted = torch.tensor([1, 3, 4])[labels]  # classes 0, 2 and 5 have no rows
    test, answers = clusters(50, 3, spread=0.2, seed=1)
    scores, few = probe(train, shifted, test, 6), probe(train, labels, test, 3)
    assert scores.shape == (50, 6) and torch.equal(scores[:, [1, 3, 4]], few)
    assert accuracy_metrics(scores, torch.tensor([1, 3, 4])[answers])["top1"] == 1.0
    nowhere = torch.zeros(50, dtype=torch.long)
    assert accuracy_metrics(scores, nowhere)["top1"] == 0.0


def test_linear_scores_are_log_probabilities_and_the_same_for_the_same_seed():
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


@pytest.mark.parametrize("probe", [knn_scores, linear_probe_scores])
@pytest.mark.parametrize(
    ("train", "labels", "test", "classes", "sentence"),
    [
        (torch.eye(3), torch.tensor([0, 1]), torch.eye(3), 2, r"train_embeds \(3, 3\) and train_labels \(2,\)"),
        (torch.eye(3), torch.tensor([0, 1, 1]), torch.eye(2), 2, r"test_embeds \(2, 2\) do not fit"),
        (torch.eye(3), torch.tensor([1, 1, 1]), torch.eye(3), 2, "have 1 class"),
        (torch.eye(3), torch.tensor([0, 1, 4]), torch.eye(3), 4, "run from 0 to 4, outside of classes 0 to 3"),
        (torch.eye(3), torch.tensor([0, 1, -1]), torch.eye(3), 4, "run from -1 to 1"),
        (torch.eye(3) * math.nan, torch.tensor([0, 1, 1]), torch.eye(3), 2, "some embeddings are not finite"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(probe, train, labels, test, classes, sentence):
    with pytest.raises(ValueError, match=sentence):
        probe(train, labels, test, classes)


def test_too_many_neighbours_and_classes_of_one_row_are_refused():
    rows = torch.eye(3), torch.tensor([0, 1, 2]), torch.eye(3), 3
    with pytest.raises(ValueError, match="neighbours=20 does not fit 3 training rows; choose 1 to 3"):
        knn_scores(*rows)
    with pytest.raises(ValueError, match="the only one of its class"):
        linear_probe_scores(*rows)
