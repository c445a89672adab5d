"""Scores whose metrics are worked out by hand go in; the claims of `evaluation.zero_shot` are checked."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, top_k_accuracy_score

from modeling_clipscratch.evaluation.metrics import zero_shot


def test_perfect_scores_give_one_everywhere():
    metrics = zero_shot.accuracy_metrics(torch.eye(7), torch.arange(7))
    assert metrics == {"top1": 1.0, "top5": 1.0, "mean_per_class_recall": 1.0}


def test_right_class_last_gives_zero_everywhere():
    assert zero_shot.accuracy_metrics(-torch.eye(7), torch.arange(7)) == {
        "top1": 0.0,
        "top5": 0.0,
        "mean_per_class_recall": 0.0,
    }


def test_metrics_of_a_literal_matrix_are_those_worked_out_by_hand():
    scores = torch.tensor(
        [
            [6.0, 5.0, 4.0, 3.0, 2.0, 1.0],  # label 0: rank 1
            [6.0, 5.0, 4.0, 3.0, 2.0, 1.0],  # label 5: rank 6
            [1.0, 9.0, 4.0, 3.0, 2.0, 0.0],  # label 0: rank 5
            [1.0, 9.0, 4.0, 3.0, 2.0, 0.0],  # label 1: rank 1
        ]
    )
    metrics = zero_shot.accuracy_metrics(scores, torch.tensor([0, 5, 0, 1]))
    # Recalls: class 0 one of two, class 1 one of one, class 5 none of one; classes 2 to 4 have no picture.
    assert metrics == {"top1": 0.5, "top5": 0.75, "mean_per_class_recall": 0.5}


def test_ties_count_against_the_model():
    labels = torch.arange(6)
    assert zero_shot.accuracy_metrics(torch.ones(6, 6), labels)["top1"] == 0
    assert zero_shot.accuracy_metrics(torch.ones(6, 6), labels)["top5"] == 0
    assert zero_shot.ranks(torch.tensor([[2.0, 2.0, 1.0]]), torch.tensor([0])).tolist() == [2]


def test_collapsed_embeddings_score_zero_in_any_column():
    # 513 columns reach the vector kernels' edges, where float32 products of equal rows differ in the last bit.
    one = torch.nn.functional.normalize(torch.randn(1, 96, generator=torch.Generator().manual_seed(0)))
    metrics = zero_shot.zero_shot_metrics(
        one.repeat(5, 1), one.repeat(513, 1), torch.tensor([0, 7, 300, 511, 512]), 2.6
    )
    assert metrics["top1"] == 0 and metrics["top5"] == 0


def test_top5_is_absent_where_it_would_always_be_one():
    assert "top5" not in zero_shot.accuracy_metrics(torch.eye(5), torch.arange(5))
    assert "top5" in zero_shot.accuracy_metrics(torch.eye(6), torch.arange(6))


def test_one_class_alone_is_always_right():
    assert zero_shot.accuracy_metrics(torch.zeros(3, 1), torch.zeros(3))["top1"] == 1.0


def test_a_class_without_pictures_has_no_recall_and_lowers_no_mean():
    confusion = np.array([[3, 1, 0], [0, 0, 0], [1, 0, 1]])
    assert zero_shot.mean_per_class_recall(confusion) == (0.75 + 0.5) / 2
    recalls = zero_shot.per_class_recall(confusion, ["cat", "dog", "owl"])
    assert recalls == {"cat": 0.75, "dog": None, "owl": 0.5}


def test_classes_of_one_name_keep_a_recall_each():
    found = zero_shot.per_class_recall(np.diag([1, 2, 0]) + np.eye(3, k=1, dtype=int), ["missile", "owl", "missile"])
    assert found == {"missile": 1 / 2, "owl": 2 / 3, "missile (2)": None}


@pytest.mark.parametrize("seed", range(3))
def test_metrics_agree_with_scikit_learn_where_there_are_no_ties(seed):
    generator = np.random.default_rng(seed)
    scores, labels = generator.normal(size=(200, 9)).astype(np.float32), generator.integers(0, 9, 200)
    metrics = zero_shot.accuracy_metrics(torch.tensor(scores), torch.tensor(labels))
    assert metrics["top1"] == np.mean(scores.argmax(1) == labels)
    assert metrics["top5"] == top_k_accuracy_score(labels, scores, k=5)
    assert metrics["mean_per_class_recall"] == pytest.approx(balanced_accuracy_score(labels, scores.argmax(1)))
    predicted = zero_shot.predictions(torch.tensor(scores), torch.tensor(labels))
    counts = zero_shot.confusion_matrix(predicted, torch.tensor(labels), 9)
    assert np.array_equal(counts, confusion_matrix(labels, scores.argmax(1)))


def test_predictions_and_top1_agree_under_ties():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 3, (100, 6), generator=generator).float()
    labels = torch.randint(0, 6, (100,), generator=generator)
    share = (zero_shot.predictions(scores, labels) == labels).double().mean().item()
    assert share == zero_shot.accuracy_metrics(scores, labels)["top1"]


def test_class_embedding_is_the_unit_mean_of_its_templates():
    texts = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.6, 0.8]]])
    half = math.sqrt(0.5)
    assert torch.allclose(zero_shot.class_embeddings(texts), torch.tensor([[half, half], [0.6, 0.8]]))


def test_calibration_error_agrees_with_a_loop_over_bins():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(300, 4)) * 2
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = generator.integers(0, 4, 300)
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (probabilities.max(1) > low) & (probabilities.max(1) <= low + 1 / 15)
        if inside.any():
            accuracy = np.mean(probabilities.argmax(1)[inside] == labels[inside])
            expected += inside.mean() * abs(accuracy - probabilities.max(1)[inside].mean())
    found = zero_shot.expected_calibration_error(torch.tensor(probabilities), torch.tensor(labels))
    assert found == pytest.approx(expected, abs=1e-12)


def test_calibration_error_of_sure_and_right_is_zero_and_of_sure_and_wrong_is_one():
    sure = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert zero_shot.expected_calibration_error(sure, torch.tensor([0, 0])) == 0.0
    assert zero_shot.expected_calibration_error(sure, torch.tensor([1, 1])) == 1.0


def test_the_temperature_changes_calibration_only():
    generator = torch.Generator().manual_seed(1)
    images, classes = (torch.nn.functional.normalize(torch.randn(n, 5, generator=generator)) for n in (20, 6))
    labels = torch.arange(20) % 6
    cold, warm = (zero_shot.zero_shot_metrics(images, classes, labels, scale) for scale in (0.0, 3.0))
    assert {name for name in cold if cold[name] != warm[name]} == {"expected_calibration_error"}


def test_blocks_change_nothing():
    generator = torch.Generator().manual_seed(2)
    images, classes = (torch.nn.functional.normalize(torch.randn(n, 5, generator=generator)) for n in (20, 6))
    labels = torch.arange(20) % 6
    (one, predicted), (two, again) = (
        zero_shot.zero_shot_outcomes(images, classes, labels, 1.0, block=block) for block in (None, 3)
    )
    scores = zero_shot.cosines(images, classes)
    assert torch.equal(predicted, again) and torch.equal(predicted, zero_shot.predictions(scores, labels))
    assert np.array_equal(one.ranks, two.ranks) and np.array_equal(one.ranks, zero_shot.ranks(scores, labels))
    assert np.array_equal(one.confidence, two.confidence) and one.classes == 6


def test_broken_inputs_are_named():
    with pytest.raises(ValueError, match="1 of 2 image embeddings are not finite"):
        zero_shot.zero_shot_metrics(
            torch.tensor([[1.0, 0.0], [math.nan, 0.0]]), torch.eye(2), torch.tensor([0, 1]), 0.0
        )
    with pytest.raises(ValueError, match="2 of 3 left embeddings are not finite"):
        zero_shot.cosines(torch.tensor([[1.0, 0.0], [math.nan, 0.0], [math.inf, 0.0]]), torch.eye(2))
    with pytest.raises(ValueError, match="labels run from 0 to 3"):
        zero_shot.accuracy_metrics(torch.eye(3), torch.tensor([0, 1, 3]))
    with pytest.raises(ValueError, match="do not fit"):
        zero_shot.accuracy_metrics(torch.eye(3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="NaN"):
        zero_shot.accuracy_metrics(torch.full((2, 3), math.nan), torch.tensor([0, 1]))
