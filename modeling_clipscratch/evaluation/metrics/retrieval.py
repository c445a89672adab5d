"""Rank captions for images and images for captions.

Shapes: N images, M captions, P projection. An image may have any number of captions, at least one.
"""

import torch

from ...utils.errors import ClipScratchError
from .outcomes import RetrievalOutcomes, plain_metrics
from .zero_shot import BLOCK, in_float64, products, ranks


def retrieval_outcomes(
    image_embeds: torch.Tensor, text_embeds: torch.Tensor, caption_to_image: torch.Tensor, *, block: int | None = None
) -> RetrievalOutcomes:
    """Compute the ranks in both directions.

    1. Image to text: the rank of the best caption of an image among all captions of other images.
    2. Text to image: the rank of the image of a caption among all images.
    3. Ties count against the model: rank = 1 + the number of wrong candidates that score at least as high.

    Args:
        image_embeds: (N, P), unit length.
        text_embeds: (M, P), unit length.
        caption_to_image: (M,) integers in [0, N), the image of each caption.
        block: rows of similarities computed at once; changes memory, not the result. Default: memory is the same for
            any number of candidates.

    Raises:
        ClipScratchError: If the shapes do not fit, an index is out of range or an image has no caption.
    """
    caption_to_image = _checked(image_embeds, text_embeds, caption_to_image)
    images, texts = in_float64("image", image_embeds), in_float64("text", text_embeds)
    rows = block or max(1, BLOCK // max(len(images), len(texts)))
    numbers = torch.arange(len(images), device=caption_to_image.device)
    # Filled in place, as in `zero_shot_outcomes`.
    text_ranks, image_ranks = torch.empty_like(caption_to_image), torch.empty_like(numbers)
    for start in range(0, len(texts), rows):
        some = slice(start, start + rows)
        text_ranks[some] = ranks(products(texts[some], images), caption_to_image[some])
    for start in range(0, len(images), rows):
        some = slice(start, start + rows)
        image_ranks[some] = best_own_ranks(products(images[some], texts), caption_to_image == numbers[some, None])
    arrays = {"image_ranks": image_ranks, "text_ranks": text_ranks, "caption_to_image": caption_to_image}
    return RetrievalOutcomes(**{name: tensor.cpu().numpy() for name, tensor in arrays.items()})


def retrieval_metrics(
    image_embeds: torch.Tensor, text_embeds: torch.Tensor, caption_to_image: torch.Tensor, *, block: int | None = None
) -> dict[str, float]:
    """Compute recall at 1, 5, 10 and the median rank, in both directions.

    Args, Raises: As for `retrieval_outcomes`.

    Returns:
        `image_to_text_recall@k`, `text_to_image_recall@k` (fractions), `image_to_text_median_rank`,
        `text_to_image_median_rank` (1 is best).

    Source: CLIP_benchmark, `zeroshot_retrieval.py`: image to text is a hit if any caption of the image is in the top k.
    """
    return plain_metrics(retrieval_outcomes(image_embeds, text_embeds, caption_to_image, block=block))


def best_own_ranks(scores: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """(N, M) scores, (N, M) bool of right candidates -> (N,) rank of the best right one among all wrong ones."""
    best = scores.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
    return 1 + ((scores >= best) & ~own).sum(1)


def _checked(image_embeds, text_embeds, caption_to_image):
    owners = torch.as_tensor(caption_to_image).long().to(text_embeds.device)
    if owners.ndim != 1 or len(owners) != len(text_embeds) or len(owners) == 0:
        raise ClipScratchError(
            f"{len(text_embeds)} text_embeds and caption_to_image {tuple(owners.shape)} do not fit; give each "
            "caption the number of its image."
        )
    if int(owners.min()) < 0 or int(owners.max()) >= len(image_embeds):
        raise ClipScratchError(
            f"caption_to_image runs from {int(owners.min())} to {int(owners.max())}, the images are 0 to "
            f"{len(image_embeds) - 1}; number the images by their row in image_embeds."
        )
    counts = torch.bincount(owners.cpu(), minlength=len(image_embeds))
    if int(counts.min()) == 0:
        raise ClipScratchError(f"image {int(counts.argmin())} has no caption, so it has no rank; leave it out.")
    return owners
