"""Compute the accuracy of zero-shot classification, for `evaluate.load`; see README.md."""

import datasets
import evaluate
import torch

from modeling_clipscratch.evaluation.metrics.ranking import accuracy_metrics


class ZeroShotAccuracy(evaluate.Metric):
    def _info(self):
        columns = {"predictions": datasets.Sequence(datasets.Value("float32")), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description="Accuracy of zero-shot classification; ties count against the model.",
            citation="Radford et al. 2021, arXiv 2103.00020",
            inputs_description="predictions: N lists of C scores, higher is better; references: N labels in [0, C).",
            features=datasets.Features(columns),
        )

    def _compute(self, predictions, references):
        return accuracy_metrics(torch.tensor(predictions), torch.tensor(references))
