"""Picture and caption embeddings with the picture of each caption go in; recalls and median ranks come out.

Shapes: N pictures, M captions, P projection. Pictures may have any number of captions, one at least.
"""

import torch

from ...hub.errors_clipscratch import ClipScratchError
from .outcomes import RetrievalOutcomes, plain_metrics
from .zero_shot import BLOCK, in_float64, products, ranks


def retrieval_outcomes(
    image_embeds: torch.Tensor, text_embeds: torch.Tensor, caption_to_image: torch.Tensor, *, block: int | None = None
) -> RetrievalOutcomes:
    """Ranks in both directions.

    1. Image to text: a picture's rank is that of its best caption among all captions that are not its own.
    2. Text to image: a caption's rank is that of its picture among all pictures.
    3. Ties count against the model: rank = 1 + the number of wrong candidates that score better or equal.

    Args:
        image_embeds: (N, P), unit length.
        text_embeds: (M, P), unit length.
        caption_to_image: (M,) integers in [0, N), the picture that each caption belongs to.
        block: rows of similarities computed at once; changes memory, not the result. Without it, as many as keep
            the memory the same for any number of candidates.
    Raises: ClipScratchError if the shapes do not fit, an index is out of range or a picture has no caption.
    """
    caption_to_image = _checked(image_embeds, text_embeds, caption_to_image)
    images, texts = in_float64("image", image_embeds), in_float64("text", text_embeds)
    rows = block or max(1, BLOCK // max(len(images), len(texts)))
    numbers = torch.arange(len(images), device=caption_to_image.device)
    # Filled in place: small results kept between the blocks would leave holes that no later block fits into.
    text_ranks, image_ranks = torch.empty_like(caption_to_image), torch.empty_like(numbers)
    for start in range(0, len(texts), rows):
        some = slice(start, start + rows)
        text_ranks[some] = ranks(products(texts[some], images), caption_to_image[some])
    for start in range(0, len(images), rows):
        some = slice(start, start + rows)
        own = caption_to_image[None] == numbers[some, None]
        image_ranks[some] = best_own_ranks(products(images[some], texts), own)
    return RetrievalOutcomes(
        image_ranks=image_ranks.cpu().numpy(),
        text_ranks=text_ranks.cpu().numpy(),
        caption_to_image=caption_to_image.cpu().numpy(),
    )


def retrieval_metrics(
    image_embeds: torch.Tensor, text_embeds: torch.Tensor, caption_to_image: torch.Tensor, *, block: int | None = None
) -> dict[str, float]:
    """Recall at 1, 5, 10 and median rank, in both directions; recall@k is the fraction of ranks up to k.

    Args, Raises: as of `retrieval_outcomes`.
    Returns: `image_to_text_recall@k`, `text_to_image_recall@k` (fractions), `image_to_text_median_rank`,
        `text_to_image_median_rank` (1 is best; the mean of the middle two where the count is even).
    Source: CLIP_benchmark, `zeroshot_retrieval.py`: image to text is a hit if any caption of the picture is in the
        top k.

    >>> embeds = torch.eye(2)
    >>> retrieval_metrics(embeds, embeds, torch.tensor([0, 1]))["image_to_text_recall@1"]
    1.0
    """
    return plain_metrics(retrieval_outcomes(image_embeds, text_embeds, caption_to_image, block=block))


def best_own_ranks(scores: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Rank of the best right candidate of each row among all wrong ones.

    Args:
        scores: (N, M).
        own: (N, M) bool, true for right candidates, one at least in each row.
    Returns: (N,) int64, 1 for the best.

    >>> best_own_ranks(torch.tensor([[0.9, 0.5, 0.7]]), torch.tensor([[False, True, True]]))
    tensor([2])
    """
    best = scores.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
    return 1 + ((scores >= best) & ~own).sum(1)


def _checked(image_embeds, text_embeds, caption_to_image):
    owners = torch.as_tensor(caption_to_image).long().to(text_embeds.device)
    if owners.ndim != 1 or len(owners) != len(text_embeds) or len(owners) == 0:
        raise ClipScratchError(
            f"{len(text_embeds)} text_embeds and caption_to_image {tuple(owners.shape)} do not fit; give each "
            "caption the number of its picture."
        )
    if int(owners.min()) < 0 or int(owners.max()) >= len(image_embeds):
        raise ClipScratchError(
            f"caption_to_image runs from {int(owners.min())} to {int(owners.max())}, there are pictures 0 to "
            f"{len(image_embeds) - 1}; number the pictures by their place in image_embeds."
        )
    counts = torch.bincount(owners.cpu(), minlength=len(image_embeds))
    if int(counts.min()) == 0:
        raise ClipScratchError(f"picture {int(counts.argmin())} has no caption, so it has no rank; leave it out.")
    return owners
