"""Rank classes for images, captions for images and images for captions by cosine similarity.

Shapes: N images, C classes, M captions, P projection. A tie counts against the model: a wrong candidate
that scores as high as the right one stands above it. Thus a collapsed model scores 0, not chance or 1.
"""

import math
from collections.abc import Iterator

import torch

from ...utils.errors import ClipScratchError
from .outcomes import ClassOutcomes, RetrievalOutcomes

# Similarities held at once: about 100 MB with all that is computed from them, for any number of candidates.
BLOCK = 2**22


def cosines(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the (N, M) float32 cosines of (N, P) and (M, P) unit embeddings.

    The sums are in float64 and rounded once, so that equal embeddings score equal in every column. A float32 product
    differs in the last bit from one column to another, which would settle ties by chance.
    """
    return (in_float64("left", left) @ in_float64("right", right).t()).float()


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


def best_own_ranks(scores: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """(N, M) scores, (N, M) bool of right candidates -> (N,) rank of the best right one among all wrong ones."""
    best = scores.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
    return 1 + ((scores >= best) & ~own).sum(1)


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
    # Filled in place: small results kept between the blocks would leave holes that no later block fits into.
    right, predicted = torch.empty_like(labels), torch.empty_like(labels)
    confidence = torch.empty(len(labels), dtype=torch.float64, device=labels.device)
    for some in _blocks(len(labels), len(classes)):
        scores = (images[some] @ classes.t()).float()
        right[some], predicted[some] = ranks(scores, labels[some]), predictions(scores, labels[some])
        confidence[some] = class_probabilities(scores, logit_scale).amax(1).double()
    arrays = {"labels": labels.cpu().numpy(), "ranks": right.cpu().numpy(), "confidence": confidence.cpu().numpy()}
    return ClassOutcomes(classes=len(classes), **arrays), predicted.cpu()


def retrieval_outcomes(
    image_embeds: torch.Tensor, text_embeds: torch.Tensor, caption_to_image: torch.Tensor
) -> RetrievalOutcomes:
    """Compute the ranks in both directions; the metrics are those of CLIP_benchmark's `zeroshot_retrieval.py`.

    1. Image to text: the rank of the best caption of an image among all captions of other images.
    2. Text to image: the rank of the image of a caption among all images.

    Args:
        image_embeds, text_embeds: (N, P) and (M, P), unit length.
        caption_to_image: (M,) integers in [0, N), the image of each caption.
    """
    owners = torch.as_tensor(caption_to_image).long().to(text_embeds.device)
    numbers = torch.arange(len(image_embeds), device=owners.device)
    if len(owners) != len(text_embeds) or not torch.equal(owners.unique(), numbers):
        raise ClipScratchError(
            f"caption_to_image must give each of the {len(text_embeds)} captions the number of its image, and each of "
            f"the {len(numbers)} images, 0 to {len(numbers) - 1}, at least one caption; leave images without one out."
        )
    images, texts = in_float64("image", image_embeds), in_float64("text", text_embeds)
    text_ranks, image_ranks = torch.empty_like(owners), torch.empty_like(numbers)
    for some in _blocks(len(texts), max(len(images), len(texts))):
        text_ranks[some] = ranks((texts[some] @ images.t()).float(), owners[some])
    for some in _blocks(len(images), max(len(images), len(texts))):
        image_ranks[some] = best_own_ranks((images[some] @ texts.t()).float(), owners == numbers[some, None])
    arrays = {"image_ranks": image_ranks, "text_ranks": text_ranks, "caption_to_image": owners}
    return RetrievalOutcomes(**{name: tensor.cpu().numpy() for name, tensor in arrays.items()})


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of so many rows that the memory is the same for any number of columns."""
    step = max(1, BLOCK // columns)
    return (slice(start, start + step) for start in range(0, rows, step))
