"""Embeddings with labels go in; the accuracy of their nearest neighbours' vote comes out. For `evaluate.load`."""

import datasets
import evaluate
import torch

from modeling_clipscratch.evaluation.metrics.probes import NEIGHBOURS, knn_scores
from modeling_clipscratch.evaluation.metrics.zero_shot import accuracy_metrics

DESCRIPTION = "Accuracy of the vote of the nearest training pictures."
INPUTS = """
Args: one entry a picture, of train and of test, since all columns of a metric are of one length
    image_embeds: N lists of P numbers.
    labels: N labels from 0 on.
    in_train: N booleans, true for the pictures that may vote.
Returns: knn_top1, knn_top5 (with more than 5 classes), knn_mean_per_class_recall: fractions,
    of the others.
"""


class KnnAccuracy(evaluate.Metric):
    """Accuracy of a vote of the nearest neighbours; `inputs_description` says what `compute` takes."""

    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="Wu et al. 2018, arXiv 1805.01978",
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
        neighbours = min(NEIGHBOURS, int(train.sum()))
        scores = knn_scores(embeds[train], labels[train], embeds[~train], 1 + int(labels.max()), neighbours=neighbours)
        return {f"knn_{name}": value for name, value in accuracy_metrics(scores, labels[~train]).items()}
