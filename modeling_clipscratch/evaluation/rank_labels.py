"""Rank labels for images by zero-shot classification."""

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
from PIL import Image

from ..data.images.preprocess import Preprocess
from ..data.templates import DEFAULT_TEMPLATES, check_class_names, check_templates
from ..utils.errors import ClipScratchError
from .encode import encode_pixels, encode_texts
from .evaluate_dataset import encode_classes, log_scale
from .metrics.ranking import class_probabilities, cosines


def check_labels(labels: Sequence[str], templates: Sequence[str]) -> None:
    """Raise ClipScratchError if there are fewer than two labels, one is empty or twice, or a template has no `{}`."""
    if len(labels) < 2:
        raise ClipScratchError(f"{len(labels)} label given; give two labels or more, since labels are compared.")
    check_class_names(labels)
    check_templates(templates)


def rank_labels(
    model,
    processor,
    images: Iterable[Image.Image],
    labels: Sequence[str] | None = None,
    *,
    templates: Sequence[str] | None = None,
    batch_size: int = 64,
) -> list[list[dict]]:
    """Rank labels for images by zero-shot classification. Words that the tokenizer does not know are logged.

    Args:
        model, processor: from `load_model`.
        images: RGB images of any size.
        labels: at least two different labels. Default: the classes that the model was trained on.
        templates: texts with `{}` for the label. Default: those of the training, or `a photo of a {}.`.
        batch_size: images at once.

    Returns:
        For each image `[{"label": str, "score": float}, ...]`, best first. Scores are probabilities over the labels:
        the softmax of exp(logit_scale) times the cosines. They sum to 1.

    Raises:
        ClipScratchError: If there are no labels and the model was not trained on classes, there are fewer than two, one
            is empty or twice, or a template has no `{}`.

    >>> from modeling_clipscratch import load_model
    >>> model, processor = load_model("runs/digits")
    >>> image = Image.new("RGB", (8, 8))
    >>> (ranked,) = rank_labels(model, processor, [image], ["three", "eight"], templates=["the digit {}."])
    >>> sorted(entry["label"] for entry in ranked), round(sum(entry["score"] for entry in ranked), 6)
    (['eight', 'three'], 1.0)
    """
    trained = model.config.to_dict()
    labels = trained.get("class_names") if labels is None else labels
    if labels is None:
        raise ClipScratchError(
            "labels are missing, and the model was not trained on classes; give at least two labels."
        )
    templates = list(templates or trained.get("templates") or DEFAULT_TEMPLATES)
    check_labels(labels, templates)
    preprocess = Preprocess(processor.image_processor)
    pixels = np.stack([preprocess(image) for image in images])
    image_embeds = encode_pixels(model, pixels, preprocess.mean, preprocess.std, batch_size)
    label_embeds = encode_classes(partial(encode_texts, model, processor.tokenizer), labels, templates)
    ranked = []
    for scores in class_probabilities(cosines(image_embeds, label_embeds), log_scale(model)).tolist():
        entries = [{"label": label, "score": score} for label, score in zip(labels, scores, strict=True)]
        ranked.append(sorted(entries, key=lambda entry: -entry["score"]))
    return ranked


def bars(ranked: Sequence[dict]) -> str:
    """Draw the ranked labels of an image as a bar chart of text.

    >>> print(bars([{"label": "cat", "score": 0.75}, {"label": "a dog", "score": 0.25}]))
      cat     75.0 %  ###############
      a dog   25.0 %  #####
    """
    width = max(len(entry["label"]) for entry in ranked)
    lines = (
        f"  {entry['label']:<{width}}  {100 * entry['score']:5.1f} %  {'#' * round(20 * entry['score'])}"
        for entry in ranked
    )
    return "\n".join(line.rstrip() for line in lines)
