"""Compare metrics with values worked out by hand, with plain loops and with scikit-learn."""

import math
import re
import socket
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score
from torch.nn.functional import normalize

from modeling_clipscratch.evaluation.metric_modules import METRICS, metric_path
from modeling_clipscratch.evaluation.metrics import ranking
from modeling_clipscratch.evaluation.metrics.outcomes import ClassOutcomes
from modeling_clipscratch.evaluation.metrics.ranking import accuracy_metrics


def units(*shape, seed):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def retrieval_metrics(*inputs):
    return ranking.retrieval_outcomes(*inputs).metrics()


# Zero-shot classification


@pytest.mark.parametrize(("scores", "share"), [(torch.eye(7), 1.0), (-torch.eye(7), 0.0), (torch.ones(7, 7), 0.0)])
def test_perfect_reversed_and_tied_scores_give_one_and_zero(scores, share):
    metrics = accuracy_metrics(scores, torch.arange(7))
    assert metrics == dict.fromkeys(("top1", "top5", "mean_per_class_recall"), share)
    assert "top5" not in accuracy_metrics(scores[:5, :5], torch.arange(5))  # it would always be 1


def test_accuracies_of_a_literal_matrix_are_those_worked_out_by_hand():
    rows = [[6.0, 5.0, 4.0, 3.0, 2.0, 1.0], [1.0, 9.0, 4.0, 3.0, 2.0, 0.0]]
    # Ranks: label 0 of the first row 1, label 5 of the first row 6, label 0 of the second 5, label 1 of the second 1.
    metrics = accuracy_metrics(torch.tensor([rows[0], rows[0], rows[1], rows[1]]), torch.tensor([0, 5, 0, 1]))
    # Recalls: class 0 one of two, class 1 one of one, class 5 none of one; classes 2 to 4 have no image.
    assert metrics == {"top1": 0.5, "top5": 0.75, "mean_per_class_recall": 0.5}


def test_collapsed_embeddings_score_zero_in_every_column():
    # 513 columns reach the edges of vector kernels, where float32 products of equal rows differ in the last bit.
    one = units(1, 96, seed=0)
    labels = torch.tensor([0, 7, 300, 511, 512])
    outcomes, _ = ranking.zero_shot_outcomes(one.repeat(5, 1), one.repeat(513, 1), labels, 2.6)
    assert outcomes.metrics()["top1"] == outcomes.metrics()["top5"] == 0


@pytest.mark.parametrize("seed", range(3))
def test_accuracies_agree_with_scikit_learn_where_there_are_no_ties(seed):
    generator = np.random.default_rng(seed)
    scores, labels = generator.normal(size=(200, 9)).astype(np.float32), generator.integers(0, 9, 200)
    metrics = accuracy_metrics(torch.tensor(scores), torch.tensor(labels))
    assert metrics["top1"] == np.mean(scores.argmax(1) == labels)
    assert metrics["top5"] == top_k_accuracy_score(labels, scores, k=5)
    assert metrics["mean_per_class_recall"] == pytest.approx(balanced_accuracy_score(labels, scores.argmax(1)))


def test_predictions_and_top1_agree_under_ties():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 3, (100, 6), generator=generator).float()
    labels = torch.randint(0, 6, (100,), generator=generator)
    share = (ranking.predictions(scores, labels) == labels).double().mean().item()
    assert share == accuracy_metrics(scores, labels)["top1"]


def test_calibration_error_agrees_with_a_loop_over_bins():
    generator = np.random.default_rng(0)
    confidence, right = generator.random(300), generator.random(300) < 0.5
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    outcomes = ClassOutcomes(labels=np.zeros(300, int), ranks=2 - right, classes=2, confidence=confidence)
    assert outcomes.metrics()["expected_calibration_error"] == pytest.approx(expected, abs=1e-12)


def test_blocks_of_images_change_nothing(monkeypatch):
    images, classes, labels = units(20, 5, seed=1), units(6, 5, seed=2), torch.arange(20) % 6
    one, predicted = ranking.zero_shot_outcomes(images, classes, labels, 1.0)
    monkeypatch.setattr(ranking, "BLOCK", 3 * 6)
    two, again = ranking.zero_shot_outcomes(images, classes, labels, 1.0)
    scores = ranking.cosines(images, classes)
    assert torch.equal(predicted, again) and torch.equal(predicted, ranking.predictions(scores, labels))
    assert np.array_equal(one.ranks, two.ranks) and np.array_equal(one.ranks, ranking.ranks(scores, labels))
    assert np.array_equal(one.confidence, two.confidence) and one.classes == 6


# Retrieval


def test_recalls_of_literal_similarities_are_those_worked_out_by_hand():
    # Texts are unit vectors, so the embedding of an image is its row of similarities (of any length here).
    similarities = torch.tensor(
        [
            [0.9, 0.1, 0.8, 0.2],  # image 0 has captions 0 and 1: best own 0.9, rank 1
            [0.5, 0.3, 0.4, 0.6],  # image 1 has caption 2: 0.4, behind 0.6 and 0.5, rank 3
            [0.1, 0.7, 0.2, 0.3],  # image 2 has caption 3: 0.3, behind 0.7, rank 2
        ]
    )
    metrics = retrieval_metrics(similarities, torch.eye(4), torch.tensor([0, 0, 1, 2]))
    # Columns: caption 0: 0.9, rank 1; caption 1: 0.1, behind 0.3 and 0.7, rank 3; caption 2: rank 2; caption 3: rank 2.
    assert metrics["image_to_text_recall@1"] == 1 / 3 and metrics["text_to_image_recall@1"] == 1 / 4
    assert metrics["image_to_text_recall@5"] == metrics["text_to_image_recall@5"] == 1.0
    assert metrics["image_to_text_median_rank"] == metrics["text_to_image_median_rank"] == 2.0


def test_ties_of_retrieval_count_against_the_model():
    same = torch.ones(6, 4) / 2
    metrics = retrieval_metrics(same, same, torch.arange(6))
    assert metrics["image_to_text_recall@5"] == metrics["text_to_image_recall@5"] == 0.0
    assert metrics["image_to_text_median_rank"] == metrics["text_to_image_median_rank"] == 6.0
    # Two images with the same caption: it ties between them.
    texts = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert retrieval_metrics(texts, texts, torch.arange(3))["text_to_image_recall@1"] == 1 / 3


def ragged(seed):
    """Embeddings of 40 images with 1 to 5 captions each, in no order."""
    owners = torch.from_numpy(np.random.default_rng(seed).permutation(np.repeat(np.arange(40), np.arange(40) % 5 + 1)))
    return units(40, 8, seed=seed), units(len(owners), 8, seed=seed + 100), owners


@pytest.mark.parametrize("seed", range(3))
def test_retrieval_agrees_with_a_loop(seed):
    images, texts, owners = ragged(seed)
    scores, owner = (images.double() @ texts.double().T).numpy(), owners.tolist()
    first = []
    for row in range(40):
        order = np.argsort(-scores[row])
        first.append(next(place for place, caption in enumerate(order) if owner[caption] == row) + 1)
    places = [1 + list(np.argsort(-scores[:, j])).index(owner[j]) for j in range(len(owner))]
    expected = {f"image_to_text_recall@{k}": np.mean(np.array(first) <= k) for k in (1, 5, 10)}
    expected |= {f"text_to_image_recall@{k}": np.mean(np.array(places) <= k) for k in (1, 5, 10)}
    # No caption of the same image stands before the first own one, so its place is its rank.
    expected |= {"image_to_text_median_rank": np.median(first), "text_to_image_median_rank": np.median(places)}
    assert retrieval_metrics(images, texts, owners) == pytest.approx(expected, abs=1e-12)


def test_neither_blocks_nor_the_order_of_images_and_captions_matter(monkeypatch):
    images, texts, owners = ragged(5)
    expected = retrieval_metrics(images, texts, owners)
    for block in (1, 7 * len(texts)):
        monkeypatch.setattr(ranking, "BLOCK", block)
        assert retrieval_metrics(images, texts, owners) == expected
    places = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(1))
    assert retrieval_metrics(images[places], texts[order], places.argsort()[owners][order]) == expected


@pytest.mark.parametrize(
    ("measure", "inputs", "sentence"),
    [
        (accuracy_metrics, (torch.eye(3), torch.tensor([0, 1, 3])), "labels run from 0 to 3"),
        (accuracy_metrics, (torch.full((2, 3), math.nan), torch.tensor([0, 1])), "some scores are NaN"),
        (ranking.cosines, (torch.tensor([[math.nan], [math.inf], [1]]), torch.eye(1)), "2 of 3 left embeddings are"),
        (ranking.zero_shot_outcomes, (torch.eye(2) / 0, torch.eye(2), torch.arange(2), 0.0), "2 of 2 image embeddin"),
        (retrieval_metrics, (torch.eye(3), torch.eye(3), torch.tensor([0, 0, 2])), "at least one caption"),
        (retrieval_metrics, (torch.eye(3), torch.eye(3), torch.tensor([0, 1, 3])), "3 images, 0 to 2"),
        (metric_path, ("accuracy",), "'accuracy' is not one of zero_shot_accuracy"),
    ],
)
def test_broken_inputs_are_named(measure, inputs, sentence):
    with pytest.raises(ValueError, match=sentence):
        measure(*inputs)


# Metrics of `evaluate`


@pytest.fixture
def load(monkeypatch, tmp_path):
    """`evaluate.load` where opening any connection fails; its cache is a folder of the test."""
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a metric opened a connection"))
    return lambda name: evaluate.load(metric_path(name), cache_dir=str(tmp_path))


def test_zero_shot_accuracy_of_batches_equals_the_plain_function(load):
    scores, labels, metric = units(30, 7, seed=0), torch.arange(30) % 7, load("zero_shot_accuracy")
    for start in (0, 10, 20):
        metric.add_batch(predictions=scores[start : start + 10].numpy(), references=labels[start : start + 10].numpy())
    assert metric.compute() == accuracy_metrics(scores, labels)


def test_retrieval_recall_equals_the_plain_function_for_any_ids_and_checks_them(load):
    owners, images, texts = torch.tensor([3, 0, 1, 1, 2, 3, 0, 3]), units(4, 5, seed=0), units(8, 5, seed=1)
    columns = {"text_embeds": texts.tolist(), "image_embeds": images[owners].tolist()}
    found = load("retrieval_recall").compute(**columns, image_ids=(1000 + 7 * owners).tolist())
    assert found == retrieval_metrics(images, texts, owners)
    with pytest.raises(ValueError, match="different image_embeds"):
        load("retrieval_recall").compute(**columns, image_ids=[4] * 8)


@pytest.mark.parametrize("name", METRICS)
def test_the_example_of_each_readme_runs(load, name):
    text = Path(metric_path(name), "README.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names = {}
    exec(code.replace("metric.compute(", "found = metric.compute("), names)
    for value in re.findall(r"'([\w@]+)': ([\d.]+)", code):
        assert names["found"][value[0]] == float(value[1])
