"""A model and rows (or their prepared pixels, or their embeddings) go in; a `Result` comes out.

Class data is measured by zero-shot classification through all templates of the rows, caption data by retrieval.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch

from ..data.pixels import Preprocess
from ..data.rows import Rows, class_prompts
from .encode import encode_images, encode_texts
from .outcomes import Outcomes, plain_metrics
from .retrieval import retrieval_outcomes
from .text_map import TextMap
from .zero_shot import class_embeddings, class_outcomes, confusion_matrix, cosines, per_class_recall, predictions


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a model did on one data set.

    Args:
        rows: the N rows that were measured; without those whose pictures are broken.
        outcomes: what it did with each picture.
        metrics: name -> fraction or rank.
        image_embeds: (N, P) float32, unit length.
        text_embeds: (C, P) of the classes, or (M, P) of the captions, row by row; unit length.
        skipped: broken pictures that were left out.
        confusion: (C, C) counts, row = true class; class data only, as are the next two.
        predicted: (N,) int64 classes.
        confidence: (N,) probability of the predicted class.
        maps: of `pictures.text_maps.make_maps`, where they were asked for.
    """

    rows: Rows
    outcomes: Outcomes
    metrics: dict[str, float]
    image_embeds: torch.Tensor
    text_embeds: torch.Tensor
    skipped: int = 0
    confusion: np.ndarray | None = None
    predicted: np.ndarray | None = None
    confidence: np.ndarray | None = None
    maps: tuple[TextMap, ...] = ()

    @property
    def class_names(self) -> Sequence[str] | None:
        return self.rows.class_names

    @property
    def per_class_recall(self) -> dict[str, float | None] | None:
        """Class name -> recall, `None` for a class without pictures; `None` for caption data."""
        return None if self.confusion is None else per_class_recall(self.confusion, self.class_names)


def evaluate_rows(
    model,
    processor,
    rows: Rows,
    *,
    batch_size: int = 256,
    on_bad_image: Literal["raise", "skip"] = "raise",
    progress: bool = False,
) -> Result:
    """Reads every picture of the rows and measures the model on them.

    Args:
        model: a `ClipScratchModel`, or any model of transformers with `get_image_features`, `get_text_features`.
        processor: with `.tokenizer` and `.image_processor`.
        rows: one split of one data set.
        batch_size: pictures, or texts, at once.
        on_bad_image: `raise`, or `skip` broken pictures with one warning.
        progress: show a bar.
    Raises: BadImageError, or ValueError if no picture can be read.
    """
    images = encode_images(
        model,
        Preprocess(processor.image_processor),
        rows,
        batch_size=batch_size,
        on_bad_image=on_bad_image,
        progress=progress,
    )
    skipped = len(rows) - len(images.kept)
    kept = rows.select(images.kept) if skipped else rows
    encode = partial(encode_texts, model, processor.tokenizer, batch_size=batch_size)
    return evaluate_embeddings(encode, images.embeds, kept, logit_scale=log_scale(model), skipped=skipped)


def evaluate_embeddings(
    encode: Callable[[list[str]], torch.Tensor],
    image_embeds: torch.Tensor,
    rows: Rows,
    *,
    logit_scale: float,
    skipped: int = 0,
) -> Result:
    """The same from picture embeddings, for whoever has them already (a trainer between two epochs).

    Args:
        encode: M texts -> (M, P) unit embeddings; gets the rows' prompts or captions.
        image_embeds: (N, P) of unit length, in the rows' order.
        logit_scale: natural log of the inverse temperature.
        skipped: broken pictures that were left out, for the report.
    """
    assert len(image_embeds) == len(rows), f"{len(image_embeds)} embeddings for {len(rows)} rows"
    if rows.kind == "class":
        measured = _zero_shot(encode, image_embeds, rows, logit_scale)
    else:
        measured = _retrieval(encode, image_embeds, rows)
    metrics = plain_metrics(measured["outcomes"])
    return Result(rows=rows, image_embeds=image_embeds, metrics=metrics, skipped=skipped, **measured)


def log_scale(model) -> float:
    """Natural log of the inverse temperature that the model's logits have."""
    # Only a ClipScratch config names a limit; other CLIPs use the scale as it is.
    limit = model.config.to_dict().get("logit_scale_max", math.inf)
    return min(float(model.logit_scale.detach()), limit)


def encode_classes(encode, class_names, templates) -> torch.Tensor:
    """(C, P) unit embeddings of classes, each the mean over its templates; `encode` as in `evaluate_embeddings`."""
    prompts = [prompt for name in class_names for prompt in class_prompts(name, templates)]
    return class_embeddings(encode(prompts).view(len(class_names), len(templates), -1))


def _zero_shot(encode, image_embeds, rows, scale):
    class_embeds = encode_classes(encode, rows.class_names, rows.templates)
    labels = torch.as_tensor(rows.labels)
    scores = cosines(image_embeds, class_embeds)
    outcomes = class_outcomes(scores, labels, logit_scale=scale)
    predicted = predictions(scores, labels)
    return {
        "outcomes": outcomes,
        "text_embeds": class_embeds,
        "confusion": confusion_matrix(predicted, labels, len(rows.class_names)),
        "predicted": predicted.numpy(),
        "confidence": outcomes.confidence,
    }


def _retrieval(encode, image_embeds, rows):
    text_embeds = encode([caption for captions in rows.captions for caption in captions])
    caption_to_image = torch.tensor([row for row, captions in enumerate(rows.captions) for _ in captions])
    outcomes = retrieval_outcomes(image_embeds, text_embeds, caption_to_image)
    return {"outcomes": outcomes, "text_embeds": text_embeds}
