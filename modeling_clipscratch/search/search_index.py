"""An index and a text or a picture go in; the pictures nearest to it with their cosines, best first, come out."""

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from ..data.images.preprocess import Preprocess
from ..evaluation.encode import encode_pixels, encode_texts
from ..hub.errors_clipscratch import ClipScratchError
from .index_files import PictureIndex
from .vectors import nearest


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A picture of the index: its path, its name below the index's folder, its cosine with the query.

    >>> Hit(path=Path("photos/0.png"), name="0.png", score=0.31).name
    '0.png'
    """

    path: Path
    name: str
    score: float


def check_query(*, text: str | None, image: object | None, top: int) -> None:
    """Raises: ClipScratchError if not exactly one of text and picture is given, the text is empty, or top is no
    number of pictures."""
    if (text is None) == (image is None):
        given = "neither is" if text is None else "both are"
        raise ClipScratchError(f"search takes a text or --image, and {given} given; give one of them.")
    if text is not None and not text.strip():
        raise ClipScratchError(
            f"the text {text!r} is empty; say what the picture should show, for example 'a dog in the snow'."
        )
    if top < 1:
        raise ClipScratchError(f"top={top} is no number of pictures to show; choose 1 or more.")


def search(
    index: PictureIndex, model, processor, *, text: str | None = None, image: Image.Image | None = None, top: int = 10
) -> list[Hit]:
    """The pictures of an index that are nearest to a text, or to another picture.

    Args:
        index: made by this model.
        model: as `load_model` gives it, with its processor.
        text: what to look for; or
        image: an RGB picture to look for others like it.
        top: how many are wanted; all there are, if fewer.
    Returns: the best first; equal ones in the order of their names.
    Raises: ClipScratchError, see `check_query`.

    >>> from modeling_clipscratch.evaluation import load_model
    >>> from modeling_clipscratch.search import update_index
    >>> model, processor = load_model("runs/digits")
    >>> index, changes = update_index("photos", model, processor, model_name="runs/digits")
    >>> hits = search(index, model, processor, text="the digit three.", top=2)
    >>> len(hits), hits[0].score >= hits[1].score
    (2, True)
    """
    check_query(text=text, image=image, top=top)
    if text is not None:
        return best(index, encode_texts(model, processor.tokenizer, [text])[0], top)
    preprocess = Preprocess(processor.image_processor)
    pixels = preprocess(image)[None].copy()  # Pillow's may not be written to, of which torch warns
    return best(index, encode_pixels(model, pixels, preprocess.mean, preprocess.std)[0], top)


def best(index: PictureIndex, query: torch.Tensor, top: int) -> list[Hit]:
    """The same for a (P,) embedding of unit length."""
    numbers, scores = nearest(index.vectors, query, top)
    found = zip(numbers.tolist(), scores.tolist(), strict=True)
    pairs = sorted((-score, name) for number, score in found for name in index.names_of[number])
    return [Hit(path=index.folder / name, name=name, score=-score) for score, name in pairs[:top]]
