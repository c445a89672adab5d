"""A model, pictures and labels go in; for each picture the labels with their probabilities, best first, come out."""

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
from PIL import Image

from ..data.images.preprocess import Preprocess
from ..data.templates import check_class_names, check_templates
from ..hub.errors_clipscratch import ClipScratchError
from .encode import encode_pixels, encode_texts
from .evaluate_dataset import encode_classes, log_scale
from .metrics.zero_shot import class_probabilities, cosines

BAR = 20  # characters of a bar that stands for 100 %


def check_labels(labels: Sequence[str], template: str) -> None:
    """Check labels and a template.

    Raises: ClipScratchError if there are not two labels, one is empty or given twice, or the template has no `{}`.
    """
    if len(labels) < 2:
        raise ClipScratchError(f"{len(labels)} label given; a picture is compared with two labels or more.")
    check_class_names(labels)
    check_templates([template])


def rank_labels(
    model, processor, images: Iterable[Image.Image], labels: Sequence[str], *, template: str, batch_size: int = 64
) -> list[list[dict]]:
    """Zero-shot classification of pictures by labels of the user's own.

    Args:
        model: as `load_model` gives it.
        processor: its processor.
        images: RGB pictures of any sizes.
        labels: two or more different ones.
        template: a text with `{}`, where the label goes; like the captions that the model learned from.
        batch_size: pictures at once.
    Returns: for each picture `[{"label": str, "score": float}, ...]`, best first; scores are probabilities over the
        labels given and sum to 1: the softmax of exp(logit_scale) times the cosines.
    Raises: ClipScratchError, see `check_labels`.

    >>> from modeling_clipscratch.evaluation import load_model
    >>> model, processor = load_model("runs/digits")
    >>> picture = Image.new("RGB", (8, 8))
    >>> (ranked,) = rank_labels(model, processor, [picture], ["three", "eight"], template="the digit {}.")
    >>> sorted(entry["label"] for entry in ranked), round(sum(entry["score"] for entry in ranked), 6)
    (['eight', 'three'], 1.0)
    """
    check_labels(labels, template)
    preprocess = Preprocess(processor.image_processor)
    pixels = np.stack([preprocess(image) for image in images])
    image_embeds = encode_pixels(model, pixels, preprocess.mean, preprocess.std, batch_size)
    label_embeds = encode_classes(partial(encode_texts, model, processor.tokenizer), labels, [template])
    probabilities = class_probabilities(cosines(image_embeds, label_embeds), log_scale(model))
    ranked = []
    for scores in probabilities:
        order = scores.argsort(descending=True, stable=True).tolist()
        ranked.append([{"label": labels[number], "score": float(scores[number])} for number in order])
    return ranked


def bars(ranked: Sequence[dict]) -> str:
    """
    >>> print(bars([{"label": "cat", "score": 0.75}, {"label": "a dog", "score": 0.25}]))
      cat     75.0 %  ###############
      a dog   25.0 %  #####
    """
    width = max(len(entry["label"]) for entry in ranked)
    lines = (
        f"  {entry['label']:<{width}}  {100 * entry['score']:5.1f} %  {'#' * round(BAR * entry['score'])}"
        for entry in ranked
    )
    return "\n".join(line.rstrip() for line in lines)
