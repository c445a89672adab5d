"""Rank captions for images and images for captions.

Shapes: N images, M captions, P projection. An image may have any number of captions, at least one.
"""

import torch

from ...utils.errors import ClipScratchError
from . import zero_shot
from .outcomes import RetrievalOutcomes
from .zero_shot import in_float64, products, ranks


def retrieval_outcomes(
    image_embeds: torch.Tensor, text_embeds: torch.Tensor, caption_to_image: torch.Tensor
) -> RetrievalOutcomes:
    """Compute the ranks in both directions.

    1. Image to text: the rank of the best caption of an image among all captions of other images.
    2. Text to image: the rank of the image of a caption among all images.
    3. Ties count against the model: rank = 1 + the number of wrong candidates that score at least as high.

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
    rows = max(1, zero_shot.BLOCK // max(len(images), len(texts)))
    # Filled in place, as in `zero_shot_outcomes`.
    text_ranks, image_ranks = torch.empty_like(owners), torch.empty_like(numbers)
    for start in range(0, len(texts), rows):
        some = slice(start, start + rows)
        text_ranks[some] = ranks(products(texts[some], images), owners[some])
    for start in range(0, len(images), rows):
        some = slice(start, start + rows)
        image_ranks[some] = best_own_ranks(products(images[some], texts), owners == numbers[some, None])
    arrays = {"image_ranks": image_ranks, "text_ranks": text_ranks, "caption_to_image": owners}
    return RetrievalOutcomes(**{name: tensor.cpu().numpy() for name, tensor in arrays.items()})


def retrieval_metrics(
    image_embeds: torch.Tensor, text_embeds: torch.Tensor, caption_to_image: torch.Tensor
) -> dict[str, float]:
    """Compute recall at 1, 5, 10 and the median rank, in both directions.

    Source: CLIP_benchmark, `zeroshot_retrieval.py`: image to text is a hit if any caption of the image is in the top k.
    """
    return retrieval_outcomes(image_embeds, text_embeds, caption_to_image).metrics()


def best_own_ranks(scores: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """(N, M) scores, (N, M) bool of right candidates -> (N,) rank of the best right one among all wrong ones."""
    best = scores.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
    return 1 + ((scores >= best) & ~own).sum(1)
