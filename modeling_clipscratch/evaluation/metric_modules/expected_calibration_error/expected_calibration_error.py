"""Probabilities (N, C) and labels (N,) go in; the expected calibration error comes out. For `evaluate.load`."""

import datasets
import evaluate
import torch

from modeling_clipscratch.evaluation.metrics.zero_shot import expected_calibration_error

DESCRIPTION = "Distance between confidence and accuracy, over bins of equal width."
INPUTS = """
Args:
    predictions: N lists of C probabilities that sum to 1.
    references: N labels in [0, C).
Returns: expected_calibration_error, a fraction; 0 is best.
"""


class ExpectedCalibrationError(evaluate.Metric):
    """Gap between confidence and accuracy; `inputs_description` says what `compute` takes."""

    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="Guo et al. 2017, arXiv 1706.04599",
            inputs_description=INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float32")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions, references):
        found = expected_calibration_error(torch.tensor(predictions), torch.tensor(references))
        return {"expected_calibration_error": found}
