"""The metric folders go through `evaluate.load`; they must work with no network and equal the plain functions."""

import socket

import evaluate
import pytest
import torch
from torch.nn.functional import normalize

from modeling_clipscratch.evaluation.metrics import METRICS, metric_path
from modeling_clipscratch.evaluation.retrieval import retrieval_metrics
from modeling_clipscratch.evaluation.zero_shot import accuracy_metrics, expected_calibration_error


@pytest.fixture
def load(monkeypatch, tmp_path):
    """`evaluate.load` where opening any connection fails; its cache is a folder of the test."""

    def refuse(*_):
        raise AssertionError("a metric opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return lambda name: evaluate.load(metric_path(name), cache_dir=str(tmp_path))


def scores_and_labels():
    torch.manual_seed(0)
    return torch.randn(30, 7).softmax(-1), torch.arange(30) % 7


def test_zero_shot_accuracy_equals_the_plain_function(load):
    scores, labels = scores_and_labels()
    found = load("zero_shot_accuracy").compute(predictions=scores.tolist(), references=labels.tolist())
    assert found == accuracy_metrics(scores, labels)


def test_a_metric_takes_batches_as_arrays(load):
    scores, labels = scores_and_labels()
    metric = load("zero_shot_accuracy")
    for start in (0, 10, 20):
        metric.add_batch(predictions=scores[start : start + 10].numpy(), references=labels[start : start + 10].numpy())
    assert metric.compute() == accuracy_metrics(scores, labels)


def test_mean_per_class_recall_equals_the_plain_function(load):
    scores, labels = scores_and_labels()
    found = load("mean_per_class_recall").compute(predictions=scores.argmax(1).tolist(), references=labels.tolist())
    assert found == {"mean_per_class_recall": accuracy_metrics(scores, labels)["mean_per_class_recall"]}


def test_expected_calibration_error_equals_the_plain_function(load):
    scores, labels = scores_and_labels()
    found = load("expected_calibration_error").compute(predictions=scores.tolist(), references=labels.tolist())
    assert found == {"expected_calibration_error": expected_calibration_error(scores, labels)}


def test_retrieval_recall_equals_the_plain_function_whatever_the_ids(load):
    torch.manual_seed(0)
    owners = torch.tensor([3, 0, 1, 1, 2, 3, 0, 3])
    images, texts = normalize(torch.randn(4, 5), dim=-1), normalize(torch.randn(8, 5), dim=-1)
    found = load("retrieval_recall").compute(
        text_embeds=texts.tolist(), image_embeds=images[owners].tolist(), image_ids=(1000 + 7 * owners).tolist()
    )
    assert found == retrieval_metrics(images, texts, owners)


def test_retrieval_recall_refuses_one_id_for_two_pictures(load):
    with pytest.raises(ValueError, match="different image_embeds"):
        load("retrieval_recall").compute(
            text_embeds=[[1.0, 0.0], [0.0, 1.0]], image_embeds=[[1.0, 0.0], [0.0, 1.0]], image_ids=[4, 4]
        )


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_describes_its_inputs_and_has_a_readme(load, name):
    assert "Returns" in load(name).inputs_description
    with open(f"{metric_path(name)}/README.md", encoding="utf-8") as readme:
        assert f'metric_path("{name}")' in readme.read()


def test_an_unknown_metric_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="'accuracy' is not one of zero_shot_accuracy"):
        metric_path("accuracy")
