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
from .retrieval import retrieval_metrics
from .zero_shot import (
    class_embeddings,
    confusion_matrix,
    cosines,
    per_class_recall,
    predictions,
    zero_shot_metrics,
)

SEARCHES = 6  # captions whose best pictures a result keeps, to be looked at
BEST = 5  # pictures kept for each


@dataclass(frozen=True, kw_only=True)
class Search:
    """One caption as a search: `row` is the row it belongs to, `best` the indices of its five best pictures."""

    caption: str
    row: int
    best: list[int]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a model did on one data set.

    Args:
        rows: the N rows that were measured; without those whose pictures are broken.
        metrics: name -> fraction or rank.
        skipped: broken pictures that were left out.
        confusion: (C, C) counts, row = true class; class data only, as are the next two.
        predicted: (N,) int64 classes.
        confidence: (N,) probability of the predicted class.
        searches: captions, evenly spaced over the rows, with their best pictures; caption data only.
    """

    rows: Rows
    metrics: dict[str, float]
    skipped: int = 0
    confusion: np.ndarray | None = None
    predicted: np.ndarray | None = None
    confidence: np.ndarray | None = None
    searches: Sequence[Search] = ()

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
    measured = (
        _zero_shot(encode, image_embeds, rows, logit_scale)
        if rows.kind == "class"
        else _retrieval(encode, image_embeds, rows)
    )
    return Result(rows=rows, skipped=skipped, **measured)


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
    predicted = predictions(scores, labels)
    probabilities = (math.exp(scale) * scores).softmax(-1)
    return {
        "metrics": zero_shot_metrics(image_embeds, class_embeds, labels, scale),
        "confusion": confusion_matrix(predicted, labels, len(rows.class_names)),
        "predicted": predicted.numpy(),
        "confidence": probabilities.gather(1, predicted[:, None])[:, 0].numpy(),
    }


def _retrieval(encode, image_embeds, rows):
    captions = [caption for texts in rows.captions for caption in texts]
    caption_to_image = torch.tensor([row for row, texts in enumerate(rows.captions) for _ in texts])
    text_embeds = encode(captions)
    chosen_rows = np.linspace(0, len(rows) - 1, min(SEARCHES, len(rows))).round().astype(int)
    # The first caption of each chosen row; all its captions stand together.
    chosen = torch.searchsorted(caption_to_image, torch.as_tensor(chosen_rows)).tolist()
    best = cosines(text_embeds[chosen], image_embeds).topk(min(BEST, len(rows))).indices.tolist()
    return {
        "metrics": retrieval_metrics(image_embeds, text_embeds, caption_to_image),
        "searches": [
            Search(caption=captions[caption], row=int(row), best=pictures)
            for caption, row, pictures in zip(chosen, chosen_rows, best, strict=True)
        ],
    }
