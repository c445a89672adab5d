"""Picture and class embeddings with labels go in; accuracies, recalls, a confusion matrix and calibration come out.

Shapes: N pictures, C classes, T templates, P projection. A tie always counts against the model: where a wrong class
scores as high as the right one, the right one stands below it. A collapsed model thus scores 0, not chance or 1.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import normalize

from ...hub.errors_clipscratch import ClipScratchError
from .outcomes import ClassOutcomes, mean_recall, plain_metrics

# Similarities held at once: about 100 MB with all that is made of them, however many candidates there are.
BLOCK = 2**22


def class_embeddings(text_embeds: torch.Tensor) -> torch.Tensor:
    """One embedding a class: the mean over its templates, made unit length again.

    Args:
        text_embeds: (C, T, P), unit length.
    Returns: (C, P), unit length.
    Source: Radford et al. 2021, arXiv 2103.00020, section 3.1.4; CLIP_benchmark's `zero_shot_classifier`.

    >>> class_embeddings(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
    tensor([[0.7071, 0.7071]])
    """
    return normalize(text_embeds.float().mean(1), dim=-1)


def cosines(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(N, P) and (M, P) of unit length -> (N, M) float32.

    Summed in float64 and rounded once, so that equal embeddings score equal wherever they stand in the matrix; a
    float32 product differs in the last bit from one column to another, and ties would be settled by chance.
    """
    return products(in_float64("left", left), in_float64("right", right))


def products(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(N, P) and (M, P) float64 -> (N, M) float32, rounded once."""
    return (left @ right.t()).float()


def in_float64(name: str, embeds: torch.Tensor) -> torch.Tensor:
    """Raises: ClipScratchError if an embedding is not finite."""
    check_finite(name, embeds)
    return embeds.double()


def check_finite(name: str, embeds: torch.Tensor) -> None:
    """Raises: ClipScratchError if an embedding is not finite."""
    broken = int((~torch.isfinite(embeds).all(-1)).sum())
    if broken:
        raise ClipScratchError(
            f"{broken} of {len(embeds)} {name} embeddings are not finite; the model gives NaN or infinity for "
            "them. Check its weights, or train it with a lower learning rate."
        )


def ranks(scores: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Rank of the right candidate in each row, 1 for the best; ties count against it.

    Args:
        scores: (N, C).
        right: (N,) int64, the right column of each row.
    Returns: (N,) int64 in [1, C]: 1 + the number of wrong candidates that score better or equal.

    >>> ranks(torch.tensor([[3.0, 1.0, 2.0], [1.0, 1.0, 0.0]]), torch.tensor([2, 0]))
    tensor([2, 2])
    """
    # The right candidate is at least its own equal, so it supplies the 1.
    return (scores >= scores.gather(1, right[:, None])).sum(1)


def predictions(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(N,) int64, the best class of each row; of equals, a wrong one, so that `top1` and this agree."""
    if scores.shape[1] == 1:
        return torch.zeros_like(labels)
    best_wrong = scores.scatter(1, labels[:, None], -math.inf).argmax(1)
    return torch.where(ranks(scores, labels) == 1, labels, best_wrong)


def class_outcomes(
    scores: torch.Tensor, labels: torch.Tensor, *, confidence: torch.Tensor | None = None
) -> ClassOutcomes:
    """
    Args:
        scores: (N, C), higher is better, on any scale.
        labels: (N,) integers in [0, C).
        confidence: (N,) probability of the predicted class, where there is one.
    Raises: ClipScratchError if the shapes do not fit, a label is out of range or a score is NaN.
    """
    scores, labels = _checked(scores, labels)
    return ClassOutcomes(
        labels=labels.cpu().numpy(),
        ranks=ranks(scores, labels).cpu().numpy(),
        classes=scores.shape[1],
        confidence=None if confidence is None else confidence.double().cpu().numpy(),
    )


def class_probabilities(scores: torch.Tensor, logit_scale: float) -> torch.Tensor:
    """(N, C) cosines and the natural log of the inverse temperature -> (N, C) probabilities."""
    return (math.exp(logit_scale) * scores).softmax(-1)


def accuracy_metrics(scores: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """`top1`, `top5` and `mean_per_class_recall` of scores on any scale.

    Args, Raises: as of `class_outcomes`.
    Returns: fractions. `top5` only with more than 5 classes: with 5 it is 1 for any model. (CLIP_benchmark gives
        it from 5 classes on; all else here is its definition.)

    >>> accuracy_metrics(torch.eye(3), torch.tensor([0, 1, 1]))
    {'top1': 0.6666666666666666, 'mean_per_class_recall': 0.75}
    """
    return plain_metrics(class_outcomes(scores, labels))


def zero_shot_metrics(
    image_embeds: torch.Tensor, class_embeds: torch.Tensor, labels: torch.Tensor, logit_scale: float
) -> dict[str, float]:
    """Zero-shot classification: each picture goes to the class of highest cosine similarity.

    Args:
        image_embeds: (N, P), unit length.
        class_embeds: (C, P), unit length, from `class_embeddings`.
        labels: (N,) integers in [0, C).
        logit_scale: natural log of the inverse temperature; only `expected_calibration_error` depends on it.
    Returns: those of `accuracy_metrics` and `expected_calibration_error`, all fractions.
    """
    return plain_metrics(zero_shot_outcomes(image_embeds, class_embeds, labels, logit_scale)[0])


def zero_shot_outcomes(
    image_embeds: torch.Tensor,
    class_embeds: torch.Tensor,
    labels: torch.Tensor,
    logit_scale: float,
    *,
    block: int | None = None,
) -> tuple[ClassOutcomes, torch.Tensor]:
    """What the classification does with each picture, and (N,) int64, the class that each is given.

    Args:
        image_embeds, class_embeds, labels, logit_scale: of `zero_shot_metrics`.
        block: pictures scored at once; changes memory, not the result. Without it, as many as keep the memory the same
            for any number of classes.
    """
    labels = _checked_labels(labels, len(image_embeds), len(class_embeds)).to(image_embeds.device)
    check_finite("image", image_embeds)
    classes, rows = in_float64("class", class_embeds), block or max(1, BLOCK // len(class_embeds))
    # Filled in place, as in `retrieval_outcomes`.
    found, predicted = torch.empty_like(labels), torch.empty_like(labels)
    confidence = torch.empty(len(labels), dtype=torch.float64, device=labels.device)
    for start in range(0, len(labels), rows):
        some = slice(start, start + rows)
        scores = products(image_embeds[some].double(), classes)
        found[some], predicted[some] = ranks(scores, labels[some]), predictions(scores, labels[some])
        confidence[some] = class_probabilities(scores, logit_scale).amax(1).double()
    outcomes = ClassOutcomes(
        labels=labels.cpu().numpy(),
        ranks=found.cpu().numpy(),
        classes=len(class_embeds),
        confidence=confidence.cpu().numpy(),
    )
    return outcomes, predicted.cpu()


def confusion_matrix(predicted: torch.Tensor, labels: torch.Tensor, classes: int) -> np.ndarray:
    """(C, C) int64 counts: row = true class, column = predicted class.

    >>> confusion_matrix(torch.tensor([0, 1, 0]), torch.tensor([0, 1, 1]), 2).tolist()
    [[1, 0], [1, 1]]
    """
    cells = torch.as_tensor(labels).long() * classes + torch.as_tensor(predicted).long()
    return torch.bincount(cells.cpu(), minlength=classes * classes).view(classes, classes).numpy()


def mean_per_class_recall(confusion: np.ndarray) -> float:
    """Mean of the recalls of the classes that have pictures; a class without any has no recall and is left out."""
    return float(mean_recall(confusion.diagonal(), confusion.sum(1)))


def per_class_recall(confusion: np.ndarray, class_names: Sequence[str]) -> dict[str, float | None]:
    """Class name -> recall, `None` where the class has no picture. Further classes of one name are `name (2)`, ...

    >>> per_class_recall(np.array([[3, 1], [0, 0]]), ["cat", "dog"])
    {'cat': 0.75, 'dog': None}
    """
    found = {}
    for name, right, total in zip(class_names, confusion.diagonal(), confusion.sum(1), strict=True):
        number, key = 1, name
        while key in found:
            number += 1
            key = f"{name} ({number})"
        found[key] = float(right / total) if total else None
    return found


def expected_calibration_error(probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean distance between confidence and accuracy over bins of equal width, weighted by their counts.

    Args:
        probabilities: (N, C), rows sum to 1.
        labels: (N,) integers in [0, C).
    Returns: fraction in [0, 1]; 0 when, of the pictures predicted with 70 %, 70 % are right, and so on.
    Raises: ClipScratchError if a value is no probability, or as `class_outcomes`.
    Source: Guo et al. 2017, arXiv 1706.04599, equation 3.
    """
    probabilities = torch.as_tensor(probabilities)
    least, most = probabilities.aminmax() if probabilities.numel() else (0, 0)
    if least < 0 or most > 1 + 1e-6:  # sums of float32 shares may pass 1 by a rounding
        raise ClipScratchError(
            f"probabilities run from {least:.3g} to {most:.3g}, outside of 0 to 1; give a softmax's output."
        )
    outcomes = class_outcomes(probabilities, labels, confidence=probabilities.amax(1))
    return plain_metrics(outcomes)["expected_calibration_error"]


def _checked(scores, labels):
    scores, labels = torch.as_tensor(scores), torch.as_tensor(labels).long()
    if scores.ndim != 2:
        raise ClipScratchError(f"scores {tuple(scores.shape)} are no table; give (N, C).")
    labels = _checked_labels(labels, *scores.shape)
    if bool(scores.isnan().any()):
        raise ClipScratchError("some scores are NaN; the model's output is broken, so no accuracy can be given.")
    return scores, labels.to(scores.device)


def _checked_labels(labels, pictures, classes):
    labels = torch.as_tensor(labels).long()
    if labels.shape != (pictures,) or pictures == 0:
        raise ClipScratchError(
            f"scores {(pictures, classes)} and labels {tuple(labels.shape)} do not fit; give (N, C) and (N,), N >= 1."
        )
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ClipScratchError(
            f"labels run from {int(labels.min())} to {int(labels.max())}, the scores know classes 0 to {classes - 1}; "
            "give one column of scores a class."
        )
    return labels
