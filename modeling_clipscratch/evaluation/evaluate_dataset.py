"""Measure a model on a dataset, or on given embeddings of its images.

Class data is measured by zero-shot classification with prompts, caption data by retrieval.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import datasets
import numpy as np
import torch
from torch.nn.functional import normalize

from ..data.columns import DataOptions
from ..data.dataset import class_names, labels_of, prepare_dataset, title
from ..data.images.preprocess import Preprocess
from ..data.templates import ALIKE, DEFAULT_TEMPLATES, class_prompts
from ..utils.errors import ClipScratchError
from .encode import encode_images, encode_texts
from .metrics.intervals import confidence_intervals
from .metrics.outcomes import Outcomes
from .metrics.ranking import retrieval_outcomes, zero_shot_outcomes


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a model did on one split of a dataset. What is of class data only is `None` for caption data."""

    dataset: datasets.Dataset  # the N measured rows, prepared; without those whose images are broken
    templates: Sequence[str] | None = None  # prompts of class data
    task: str  # `zero_shot` (class data) or `retrieval` (caption data)
    outcomes: Outcomes
    metrics: dict[str, float | list[float]]  # name -> fraction or rank; `<name>_ci95` -> its 95 % interval, if computed
    image_embeds: torch.Tensor  # (N, P) float32, unit length
    text_embeds: torch.Tensor  # (C, P) of the classes, or (M, P) of the captions in the order of the rows
    skipped: int = 0  # number of broken images that were left out
    predicted: np.ndarray | None = None  # (N,) int64 classes

    @property
    def class_names(self) -> list[str] | None:
        return class_names(self.dataset)

    @property
    def confusion(self) -> np.ndarray | None:
        """(C, C) counts, row = true class."""
        if self.predicted is None:
            return None
        classes = self.outcomes.classes
        cells = np.bincount(self.outcomes.labels * classes + self.predicted, minlength=classes**2)
        return cells.reshape(classes, classes)

    @property
    def per_class_recall(self) -> dict[str, float | None] | None:
        """Class name -> recall, `None` for a class without images."""
        if self.predicted is None:
            return None
        names = [name.replace(ALIKE, " (again)") for name in self.dataset.features["label"].names]
        counts = zip(names, self.confusion.diagonal(), self.confusion.sum(1), strict=True)
        return {name: float(right / total) if total else None for name, right, total in counts}


def check_measurable(dataset: datasets.Dataset) -> None:
    """Raise ClipScratchError if every answer on a prepared dataset would be right."""
    names, name = class_names(dataset), title(dataset)
    if names is not None and len(names) < 2:
        raise ClipScratchError(
            f"{name}: {names[0]!r} is the only class, so every answer would be right; give the folder that holds a "
            "folder for each class, or the names of all classes (class_names)."
        )
    if names is None and len(dataset) < 2:
        raise ClipScratchError(f"{name}: there is only one image, so every search would find it; give at least two.")


def evaluate_dataset(
    model,
    processor,
    dataset: datasets.Dataset,
    *,
    templates: Sequence[str] | None = None,
    batch_size: int = 256,
    on_bad_row: Literal["raise", "skip"] = "raise",
    progress: bool = False,
) -> Result:
    """Measure a model on one split: metrics with 95 % intervals, predictions and embeddings.

    Args:
        model, processor: from `load_model`, or of a trainer.
        dataset: any `datasets.Dataset` of images with a label or captions; columns are found by type and name.
        templates: prompts of class data, `{}` stands for the class. Default: those that the model was trained with, if
            the data have the classes of its training; else `a photo of a {}.`.
        batch_size: images, or texts, at once.
        on_bad_row: `raise`, or `skip` rows without a label or caption and broken images, with one warning.
        progress: show a bar.

    Raises:
        BadImageError: If an image cannot be read.
        ClipScratchError: If no image can be read, or the data have one class or one image.

    >>> from modeling_clipscratch import load_data, load_model
    >>> model, processor = load_model("runs/digits")
    >>> metrics = evaluate_dataset(model, processor, load_data("digits")["test"]).metrics
    >>> low, high = metrics["top1_ci95"]
    >>> 0 <= low <= metrics["top1"] <= high <= 1
    True
    """
    if not isinstance(dataset, datasets.Dataset):
        raise ClipScratchError(
            f"a {type(dataset).__name__} cannot be measured; give one split, a map-style datasets.Dataset."
        )
    options = DataOptions(templates=templates, on_bad_row=on_bad_row)
    dataset = prepare_dataset(dataset, options)
    check_measurable(dataset)
    names, trained = class_names(dataset), model.config.to_dict()
    own = trained.get("templates") if names is not None and trained.get("class_names") == names else None
    preprocess, read = Preprocess(processor.image_processor), {"on_bad_row": on_bad_row, "progress": progress}
    embeds, kept = encode_images(model, preprocess, dataset, batch_size=batch_size, **read)
    skipped = len(dataset) - len(kept)
    dataset = dataset.select(kept) if skipped else dataset
    encode = partial(encode_texts, model, processor.tokenizer, batch_size=batch_size)
    result = evaluate_embeddings(encode, embeds, dataset, options.templates or own, logit_scale=log_scale(model))
    metrics = {**result.outcomes.metrics(), **confidence_intervals(result.outcomes)}
    return replace(result, metrics=metrics, skipped=skipped)


def evaluate_embeddings(
    encode: Callable[[list[str]], torch.Tensor],
    image_embeds: torch.Tensor,
    dataset: datasets.Dataset,
    templates: Sequence[str] | None = None,
    *,
    logit_scale: float,
) -> Result:
    """Measure unit embeddings (N, P) of the images of a prepared dataset, without intervals.

    `encode` takes M prompts or captions and returns (M, P) unit embeddings; `logit_scale` is the natural log of the
    inverse temperature; `templates` are ignored for caption data.
    """
    predicted = None
    if "label" in dataset.features:
        templates = list(templates or DEFAULT_TEMPLATES)
        text_embeds = encode_classes(encode, class_names(dataset), templates)
        outcomes, predicted = zero_shot_outcomes(image_embeds, text_embeds, labels_of(dataset), logit_scale)
        predicted = predicted.numpy()
    else:
        templates, captions = None, dataset["captions"][:]
        text_embeds = encode([caption for own in captions for caption in own])
        caption_to_image = torch.tensor([row for row, own in enumerate(captions) for _ in own])
        outcomes = retrieval_outcomes(image_embeds, text_embeds, caption_to_image)
    return Result(
        dataset=dataset,
        templates=templates,
        task="zero_shot" if templates else "retrieval",
        outcomes=outcomes,
        metrics=outcomes.metrics(),
        image_embeds=image_embeds,
        text_embeds=text_embeds,
        predicted=predicted,
    )


def encode_classes(encode, class_names, templates) -> torch.Tensor:
    """Return (C, P) unit embeddings of classes, each the mean over its prompts; `encode` as in `evaluate_embeddings`.

    Source: Radford et al. 2021, arXiv 2103.00020, section 3.1.4; CLIP_benchmark's `zero_shot_classifier`.
    """
    prompts = [prompt for name in class_names for prompt in class_prompts(name, templates)]
    return normalize(encode(prompts).view(len(class_names), len(templates), -1).mean(1), dim=-1)


def log_scale(model) -> float:
    """Return the natural log of the inverse temperature of the model's logits."""
    # Only a ClipScratch config has a limit; other CLIPs use the scale as it is.
    limit = model.config.to_dict().get("logit_scale_max", math.inf)
    return min(float(model.logit_scale.detach()), limit)
