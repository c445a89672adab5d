"""Embeddings with labels go in; the accuracy of a linear probe on them comes out. For `evaluate.load`."""

import datasets
import evaluate
import torch

from modeling_clipscratch.evaluation.metrics.probes import linear_probe_scores
from modeling_clipscratch.evaluation.metrics.zero_shot import accuracy_metrics

DESCRIPTION = "Accuracy of logistic regression on embeddings."
INPUTS = """
Args: one entry a picture, of train and of test, since all columns of a metric are of one length
    image_embeds: N lists of P numbers.
    labels: N labels from 0 on.
    in_train: N booleans, true for the pictures that the probe learns from.
Returns: linear_probe_top1, linear_probe_top5 (with more than 5 classes), linear_probe_mean_per_class_recall: fractions,
    of the others.
"""


class LinearProbeAccuracy(evaluate.Metric):
    """Accuracy of logistic regression on embeddings; `inputs_description` says what `compute` takes."""

    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="Radford et al. 2021, arXiv 2103.00020",
            inputs_description=INPUTS,
            features=datasets.Features(
                {
                    "image_embeds": datasets.Sequence(datasets.Value("float32")),
                    "labels": datasets.Value("int64"),
                    "in_train": datasets.Value("bool"),
                }
            ),
        )

    def _compute(self, image_embeds, labels, in_train):
        embeds, labels, train = torch.tensor(image_embeds), torch.tensor(labels), torch.tensor(in_train)
        scores = linear_probe_scores(embeds[train], labels[train], embeds[~train], 1 + int(labels.max()))
        return {f"linear_probe_{name}": value for name, value in accuracy_metrics(scores, labels[~train]).items()}
