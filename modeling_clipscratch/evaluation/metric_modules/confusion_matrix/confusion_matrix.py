"""Predicted and true classes (N,) go in; the counts of each pair of them (C, C) come out. For `evaluate.load`."""

import datasets
import evaluate
import torch

from modeling_clipscratch.evaluation.metrics.zero_shot import confusion_matrix

DESCRIPTION = "How often pictures of each class were taken for each class."
INPUTS = """
Args:
    predictions: N predicted classes, integers from 0 on.
    references: N true classes, integers from 0 on.
Returns: confusion_matrix, C lists of C counts: a list a true class, an entry a predicted class; C is 1 + the highest
    class that appears.
"""


class ConfusionMatrix(evaluate.Metric):
    """Counts of true against predicted classes; `inputs_description` says what `compute` takes."""

    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions, references):
        predicted, labels = torch.tensor(predictions), torch.tensor(references)
        classes = 1 + int(max(predicted.max(), labels.max()))
        return {"confusion_matrix": confusion_matrix(predicted, labels, classes).tolist()}
