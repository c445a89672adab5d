"""Find the images of an index that are nearest to a text or to another image."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..data.images.preprocess import Preprocess
from ..evaluation.encode import encode_pixels, encode_texts
from ..utils.errors import ClipScratchError
from .image_index import ImageIndex


@dataclass(frozen=True, kw_only=True)
class Hit:
    """An image of the index: its path, its name below the folder of the index, its cosine with the query."""

    path: Path
    name: str
    score: float


def check_query(*, text: str | None, image: object | None, top: int) -> None:
    """Raise `ClipScratchError` for a query without an answer."""
    if (text is None) == (image is None):
        raise ClipScratchError(
            f"search takes a text or --image, and {'neither is' if text is None else 'both are'} given; give one."
        )
    if text is not None and not text.strip():
        raise ClipScratchError(f"the text {text!r} is empty; describe the image, for example 'a dog in the snow'.")
    if top < 1:
        raise ClipScratchError(f"top={top} is not a number of images; choose 1 or more.")


def search_index(
    index: ImageIndex, model, processor, *, text: str | None = None, image: Image.Image | None = None, top: int = 10
) -> list[Hit]:
    """Find the images of an index that are nearest to a text or to another image.

    Args:
        index: Made by this model.
        model, processor: As `load_model` returns them.
        text: What to look for. A warning names the words that the tokenizer does not know.
        image: An RGB image to look for similar ones, instead of a text.
        top: How many to return; all if there are fewer.

    Returns:
        The nearest first; equal ones in the order of their names.

    Raises:
        ClipScratchError: If not exactly one of text and image is given, the text is empty, or `top` is below 1.

    >>> from modeling_clipscratch import load_model, update_index
    >>> model, processor = load_model("runs/digits")
    >>> index, changes = update_index("photos", model, processor, model_name="runs/digits")
    >>> hits = search_index(index, model, processor, text="the digit three.", top=2)
    >>> len(hits), hits[0].score >= hits[1].score
    (2, True)
    """
    check_query(text=text, image=image, top=top)
    if text is not None:
        return nearest(index, encode_texts(model, processor.tokenizer, [text])[0], top)
    preprocess = Preprocess(processor.image_processor)
    pixels = preprocess(image)[None].copy()  # Pillow's array is read-only, of which torch warns
    return nearest(index, encode_pixels(model, pixels, preprocess.mean, preprocess.std)[0], top)


def nearest(index: ImageIndex, query: torch.Tensor, top: int) -> list[Hit]:
    """Find the images nearest to a (P,) embedding of unit length; otherwise like `search_index`."""
    scores = index.embeds @ query.float().numpy()
    rows = np.argsort(-scores.round(6), kind="stable")[:top]  # equal images differ by float32's rounding
    names = list(index.images)
    return [Hit(path=index.folder / names[row], name=names[row], score=float(scores[row])) for row in rows]
