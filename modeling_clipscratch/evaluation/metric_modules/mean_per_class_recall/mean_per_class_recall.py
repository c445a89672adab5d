"""Predicted and true classes (N,) go in; the mean of the classes' recalls comes out. For `evaluate.load`."""

import datasets
import evaluate
import torch

from modeling_clipscratch.evaluation.metrics.zero_shot import confusion_matrix, mean_per_class_recall

DESCRIPTION = "Mean of the recalls of all classes that have pictures: accuracy, were all classes equally frequent."
INPUTS = """
Args:
    predictions: N predicted classes, integers from 0 on.
    references: N true classes, integers from 0 on.
Returns: mean_per_class_recall, a fraction.
"""


class MeanPerClassRecall(evaluate.Metric):
    """Recall, averaged over classes; `inputs_description` says what `compute` takes."""

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
        return {"mean_per_class_recall": mean_per_class_recall(confusion_matrix(predicted, labels, classes))}
