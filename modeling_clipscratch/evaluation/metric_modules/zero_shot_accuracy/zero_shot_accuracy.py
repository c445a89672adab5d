"""Compute the accuracy of zero-shot classification, for `evaluate.load`."""

import datasets
import evaluate
import torch

from modeling_clipscratch.evaluation.metrics.zero_shot import accuracy_metrics

INPUTS = """
Args:
    predictions: N lists of C scores, higher is better, on any scale.
    references: N labels in [0, C).

Returns:
    top1, top5 (with more than 5 classes) and mean_per_class_recall, fractions.
"""


class ZeroShotAccuracy(evaluate.Metric):
    """Accuracy of zero-shot classification; `inputs_description` describes the arguments of `compute`."""

    def _info(self):
        return evaluate.MetricInfo(
            description="Accuracy of zero-shot classification; ties count against the model.",
            citation="Radford et al. 2021, arXiv 2103.00020",
            inputs_description=INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Sequence(datasets.Value("float32")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references):
        return accuracy_metrics(torch.tensor(predictions), torch.tensor(references))
