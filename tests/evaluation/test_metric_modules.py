"""The metric folders go through `evaluate.load`; they must work with no network and equal the plain functions."""

import ast
import doctest
import re
import socket
from pathlib import Path

import evaluate
import pytest
import torch
from torch.nn.functional import normalize

from modeling_clipscratch.evaluation.metric_modules import METRICS, metric_path
from modeling_clipscratch.evaluation.metrics.probes import knn_scores, linear_probe_scores
from modeling_clipscratch.evaluation.metrics.retrieval import retrieval_metrics
from modeling_clipscratch.evaluation.metrics.zero_shot import accuracy_metrics, expected_calibration_error


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


def test_expected_calibration_error_refuses_logits(load):
    module = load("expected_calibration_error")
    for logits in ([[6.0, 1.0]], [[0.5, -0.5]]):
        with pytest.raises(ValueError, match="probabilities run from .*, outside of 0 to 1; give a softmax's output"):
            module.compute(predictions=logits, references=[1])


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


def embeddings_of_a_split():
    torch.manual_seed(0)
    labels = torch.arange(60) % 7
    embeds = normalize(torch.eye(7)[labels] + 0.4 * torch.randn(60, 7), dim=-1)
    return embeds, labels, torch.rand(60) < 0.7


@pytest.mark.parametrize(("name", "scores"), [("knn", knn_scores), ("linear_probe", linear_probe_scores)])
def test_probes_equal_the_plain_functions(load, name, scores):
    embeds, labels, train = embeddings_of_a_split()
    found = load(f"{name}_accuracy").compute(
        image_embeds=embeds.tolist(), labels=labels.tolist(), in_train=train.tolist()
    )
    expected = accuracy_metrics(scores(embeds[train], labels[train], embeds[~train], 7), labels[~train])
    assert found == {f"{name}_{metric}": value for metric, value in expected.items()}


def test_fewer_training_pictures_than_neighbours_all_vote(load):
    found = load("knn_accuracy").compute(
        image_embeds=[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], labels=[0, 1, 1], in_train=[True, True, False]
    )
    assert found == {"knn_top1": 1.0, "knn_mean_per_class_recall": 1.0}


def test_metrics_of_scores_are_combined(load):
    scores, labels = scores_and_labels()
    both = evaluate.combine([load("zero_shot_accuracy"), load("expected_calibration_error")])
    found = both.compute(predictions=scores.tolist(), references=labels.tolist())
    calibration = {"expected_calibration_error": expected_calibration_error(scores, labels)}
    assert found == {**accuracy_metrics(scores, labels), **calibration}


def test_metrics_of_classes_are_combined(load):
    both = evaluate.combine([load("mean_per_class_recall"), load("confusion_matrix")])
    found = both.compute(predictions=[0, 0, 2, 1], references=[0, 0, 1, 1])
    assert found == {"mean_per_class_recall": 0.75, "confusion_matrix": [[2, 0, 0], [0, 1, 1], [0, 0, 0]]}


def test_probes_are_combined(load):
    embeds, labels, train = embeddings_of_a_split()
    both = evaluate.combine([load("knn_accuracy"), load("linear_probe_accuracy")])
    columns = {"image_embeds": embeds.tolist(), "labels": labels.tolist(), "in_train": train.tolist()}
    found = both.compute(**columns)
    assert found == load("knn_accuracy").compute(**columns) | load("linear_probe_accuracy").compute(**columns)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_describes_its_inputs(load, name):
    assert "Returns" in load(name).inputs_description


@pytest.mark.parametrize("name", METRICS)
def test_the_example_of_every_readme_gives_what_it_says(load, name):
    """The last statement's value is the comment below it; `...` stands for anything."""
    text = Path(metric_path(name), "README.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    *before, last = ast.parse(code).body
    assert f'metric_path("{name}")' in code
    names = {}
    exec(compile(ast.Module(before, type_ignores=[]), name, "exec"), names)
    found = eval(compile(ast.Expression(last.value), name, "eval"), names)
    said = "\n".join(line[2:] for line in code.splitlines() if line.startswith("# "))
    assert doctest.OutputChecker().check_output(said + "\n", f"{found}\n", doctest.ELLIPSIS), found


def test_every_folder_of_a_metric_is_named():
    assert {path.parent.name for path in Path(metric_path(METRICS[0])).parent.glob("*/README.md")} == set(METRICS)


def test_an_unknown_metric_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="'accuracy' is not one of zero_shot_accuracy"):
        metric_path("accuracy")
