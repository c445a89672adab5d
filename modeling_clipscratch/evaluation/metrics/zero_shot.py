"""Rank classes for image embeddings, and count what the ranking does with each image.

Shapes: N images, C classes, T templates, P projection. A tie counts against the model: a wrong class that scores as
high as the right one stands above it. Thus a collapsed model scores 0, not chance or 1.
"""

import math

import numpy as np
import torch
from torch.nn.functional import normalize

from ...utils.errors import ClipScratchError
from .outcomes import ClassOutcomes

# Similarities held at once: about 100 MB with all that is computed from them, for any number of candidates.
BLOCK = 2**22


def class_embeddings(text_embeds: torch.Tensor) -> torch.Tensor:
    """Return (C, P) unit embeddings of classes: the mean of the unit embeddings (C, T, P) of their prompts.

    Source: Radford et al. 2021, arXiv 2103.00020, section 3.1.4; CLIP_benchmark's `zero_shot_classifier`.
    """
    return normalize(text_embeds.float().mean(1), dim=-1)


def cosines(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the (N, M) float32 cosines of (N, P) and (M, P) unit embeddings.

    The sums are in float64 and rounded once, so that equal embeddings score equal in every column. A float32 product
    differs in the last bit from one column to another, which would settle ties by chance.
    """
    return products(in_float64("left", left), in_float64("right", right))


def products(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(N, P) and (M, P) float64 -> (N, M) float32, rounded once."""
    return (left @ right.t()).float()


def in_float64(name: str, embeds: torch.Tensor) -> torch.Tensor:
    """Return embeddings as float64. Raises: ClipScratchError if one is not finite."""
    broken = int((~torch.isfinite(embeds).all(-1)).sum())
    if broken:
        raise ClipScratchError(
            f"{broken} of {len(embeds)} {name} embeddings are not finite; the model computes NaN or infinity for "
            "them. Check its weights, or train it with a lower learning rate."
        )
    return embeds.double()


def ranks(scores: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(N, C) scores, (N,) right column of each row -> (N,) its rank: 1 + the number of others that score no lower.

    >>> ranks(torch.tensor([[3.0, 1.0, 2.0], [1.0, 1.0, 0.0]]), torch.tensor([2, 0]))
    tensor([2, 2])
    """
    # The right candidate scores as high as itself, which counts the 1.
    return (scores >= scores.gather(1, right[:, None])).sum(1)


def predictions(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the best class (N,) of each row; in a tie a wrong one, in agreement with `top1`."""
    best_wrong = scores.scatter(1, labels[:, None], -math.inf).argmax(1)
    return torch.where(ranks(scores, labels) == 1, labels, best_wrong)


def class_probabilities(scores: torch.Tensor, logit_scale: float) -> torch.Tensor:
    """(N, C) cosines and the natural log of the inverse temperature -> (N, C) probabilities."""
    return (math.exp(logit_scale) * scores).softmax(-1)


def accuracy_metrics(scores: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Compute `top1`, `top5` and `mean_per_class_recall` of scores (N, C) on any scale and labels (N,).

    `top5` only with more than 5 classes: with 5 it is 1 for any model. (CLIP_benchmark reports it from 5 classes on;
    everything else follows its definition.)
    """
    scores, labels = torch.as_tensor(scores), torch.as_tensor(labels).long()
    if not 0 <= labels.min() <= labels.max() < scores.shape[1]:
        raise ClipScratchError(
            f"labels run from {labels.min()} to {labels.max()}, the scores have classes 0 to {scores.shape[1] - 1}; "
            "give one column of scores for each class."
        )
    if scores.isnan().any():
        raise ClipScratchError("some scores are NaN, so no accuracy can be computed; check the weights of the model.")
    right = ranks(scores, labels.to(scores.device)).cpu().numpy()
    return ClassOutcomes(labels=labels.cpu().numpy(), ranks=right, classes=scores.shape[1]).metrics()


def zero_shot_outcomes(
    image_embeds: torch.Tensor, class_embeds: torch.Tensor, labels: torch.Tensor, logit_scale: float
) -> tuple[ClassOutcomes, torch.Tensor]:
    """Classify each image (N, P) as the class (C, P) of the highest cosine similarity.

    Only the confidences depend on `logit_scale`, the natural log of the inverse temperature.

    Returns:
        The outcomes, and the predicted classes (N,) int64.
    """
    labels = torch.as_tensor(labels).long().to(image_embeds.device)
    images, classes = in_float64("image", image_embeds), in_float64("class", class_embeds)
    rows = max(1, BLOCK // len(classes))  # the memory is the same for any C
    # Filled in place: small results kept between the blocks would leave holes that no later block fits into.
    right, predicted = torch.empty_like(labels), torch.empty_like(labels)
    confidence = torch.empty(len(labels), dtype=torch.float64, device=labels.device)
    for start in range(0, len(labels), rows):
        some = slice(start, start + rows)
        scores = products(images[some], classes)
        right[some], predicted[some] = ranks(scores, labels[some]), predictions(scores, labels[some])
        confidence[some] = class_probabilities(scores, logit_scale).amax(1).double()
    arrays = {"labels": labels.cpu().numpy(), "ranks": right.cpu().numpy(), "confidence": confidence.cpu().numpy()}
    return ClassOutcomes(classes=len(classes), **arrays), predicted.cpu()


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return (C, C) int64 counts: row = true class, column = predicted class."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)
