"""A model and rows (or their prepared pixels, or their embeddings) go in; a `Result` comes out.

Class data is measured by zero-shot classification through all templates of the rows, or by a probe (k nearest
neighbours, logistic regression) on picture embeddings of its training rows; caption data by retrieval.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch

from ..data.pixels import Preprocess
from ..data.rows import Rows, class_prompts
from .encode import encode_images, encode_texts
from .intervals import confidence_intervals
from .outcomes import Outcomes, plain_metrics
from .retrieval import retrieval_outcomes
from .text_map import TextMap
from .zero_shot import (
    class_embeddings,
    class_outcomes,
    confusion_matrix,
    per_class_recall,
    predictions,
    zero_shot_outcomes,
)

TASKS = {"zero_shot": "class", "retrieval": "caption", "knn": "class", "linear_probe": "class"}  # -> kind of the data
PROBES = ("knn", "linear_probe")


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a model did on one data set.

    Args:
        rows: the N rows that were measured; without those whose pictures are broken.
        task: `zero_shot`, `retrieval`, `knn` or `linear_probe`.
        outcomes: what it did with each picture.
        metrics: name -> fraction or rank, and `<name>_ci95` -> its interval where it was asked for.
        image_embeds: (N, P) float32, unit length.
        text_embeds: (C, P) of the classes, or (M, P) of the captions, row by row; unit length.
        skipped: broken pictures that were left out.
        confusion: (C, C) counts, row = true class; class data only, as are the next two.
        predicted: (N,) int64 classes.
        confidence: (N,) probability of the predicted class.
        maps: of `pictures.text_maps.make_maps`, where they were asked for.

    >>> from modeling_clipscratch.data import load_rows
    >>> from modeling_clipscratch.evaluation import load_model
    >>> model, processor = load_model("runs/digits")
    >>> result = evaluate_rows(model, processor, load_rows("digits", "test"))
    >>> result.task, result.image_embeds.shape, result.confusion.sum()
    ('zero_shot', torch.Size([360, 16]), np.int64(360))
    """

    rows: Rows
    task: str
    outcomes: Outcomes
    metrics: dict[str, float | list[float]]
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


def task_for(rows: Rows, task: str = "auto") -> str:
    """`auto` -> the task of the rows' kind; another -> itself, if it fits.

    Raises: ValueError if the data are of another kind than the task needs, or what a probe learns from.
    """
    if task == "auto":
        return "zero_shot" if rows.kind == "class" else "retrieval"
    if TASKS[task] != rows.kind:
        has, needs = ("classes", "captions") if rows.kind == "class" else ("captions", "classes")
        fits = " or ".join(name for name, kind in TASKS.items() if kind == rows.kind)
        raise ValueError(
            f"{rows.name}, split {rows.split}, has {has} and task={task} needs {needs}; choose task={fits}."
        )
    if task in PROBES and rows.split == "train":
        raise ValueError(f"task={task} learns from the training split; measure it on another (--split test).")
    return task


def evaluate_rows(
    model,
    processor,
    rows: Rows,
    *,
    task: str = "auto",
    train: Rows | None = None,
    batch_size: int = 256,
    on_bad_image: Literal["raise", "skip"] = "raise",
    progress: bool = False,
) -> Result:
    """Reads every picture of the rows and measures the model on them; metrics come with their 95 % intervals.

    Args:
        model: a `ClipScratchModel`, or any model of transformers with `get_image_features`, `get_text_features`.
        processor: with `.tokenizer` and `.image_processor`.
        rows: one split of one data set.
        task: one of `TASKS`, or `auto`.
        train: rows that a probe learns from; the probes need them, nothing else looks at them.
        batch_size: pictures, or texts, at once.
        on_bad_image: `raise`, or `skip` broken pictures with one warning.
        progress: show a bar.
    Raises: BadImageError, or ValueError if no picture can be read, the task does not fit the rows or a probe has no
        training rows.

    >>> from modeling_clipscratch.data import load_rows
    >>> from modeling_clipscratch.evaluation import load_model
    >>> model, processor = load_model("runs/digits")
    >>> metrics = evaluate_rows(model, processor, load_rows("digits", "test")).metrics
    >>> low, high = metrics["top1_ci95"]
    >>> 0 <= low <= metrics["top1"] <= high <= 1
    True
    """
    task = task_for(rows, task)
    if task in PROBES and train is None:
        raise ValueError(f"task={task} learns from training rows and there are none; give some as train.")

    def embed(rows):
        preprocess = Preprocess(processor.image_processor)
        images = encode_images(
            model, preprocess, rows, batch_size=batch_size, on_bad_image=on_bad_image, progress=progress
        )
        return images.embeds, rows if len(images.kept) == len(rows) else rows.select(images.kept)

    embeds, kept = embed(rows)
    encode = partial(encode_texts, model, processor.tokenizer, batch_size=batch_size)
    result = evaluate_embeddings(encode, embeds, kept, logit_scale=log_scale(model), skipped=len(rows) - len(kept))
    if task in PROBES:
        # scikit-learn takes half a second to import, which training would pay at every start.
        from .probes import NEIGHBOURS, knn_scores, linear_probe_scores

        train_embeds, train_kept = embed(train)
        nearest = partial(knn_scores, neighbours=min(NEIGHBOURS, len(train_embeds)))
        learn = nearest if task == "knn" else linear_probe_scores
        scores = learn(train_embeds, train_kept.labels, embeds, len(rows.class_names))
        confidence = scores.amax(1)  # shares of votes, or log-probabilities
        confidence = confidence.exp() if task == "linear_probe" else confidence
        predicted = predictions(scores, torch.as_tensor(kept.labels))
        result = replace(result, **_classified(class_outcomes(scores, kept.labels, confidence=confidence), predicted))
    metrics = {**plain_metrics(result.outcomes), **confidence_intervals(result.outcomes)}
    return replace(result, task=task, metrics=metrics)


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
        text_embeds = encode_classes(encode, rows.class_names, rows.templates)
        measured = _classified(*zero_shot_outcomes(image_embeds, text_embeds, rows.labels, logit_scale))
    else:
        text_embeds = encode([caption for captions in rows.captions for caption in captions])
        caption_to_image = torch.tensor([row for row, captions in enumerate(rows.captions) for _ in captions])
        measured = {"outcomes": retrieval_outcomes(image_embeds, text_embeds, caption_to_image)}
    return Result(
        rows=rows,
        task=task_for(rows),
        metrics=plain_metrics(measured["outcomes"]),
        image_embeds=image_embeds,
        text_embeds=text_embeds,
        skipped=skipped,
        **measured,
    )


def titled(name: str, task: str) -> str:
    """A data set's name as a table's head, where metrics of a probe are not to pass for those of prompts.

    >>> titled("digits", "zero_shot"), titled("digits", "knn")
    ('digits', 'digits, knn')
    """
    return f"{name}, {task}" if task in PROBES else name


def log_scale(model) -> float:
    """Natural log of the inverse temperature that the model's logits have."""
    # Only a ClipScratch config names a limit; other CLIPs use the scale as it is.
    limit = model.config.to_dict().get("logit_scale_max", math.inf)
    return min(float(model.logit_scale.detach()), limit)


def encode_classes(encode, class_names, templates) -> torch.Tensor:
    """(C, P) unit embeddings of classes, each the mean over its templates; `encode` as in `evaluate_embeddings`."""
    prompts = [prompt for name in class_names for prompt in class_prompts(name, templates)]
    return class_embeddings(encode(prompts).view(len(class_names), len(templates), -1))


def _classified(outcomes, predicted):
    """What a `Result` has of class data."""
    return {
        "outcomes": outcomes,
        "confusion": confusion_matrix(predicted, outcomes.labels, outcomes.classes),
        "predicted": predicted.numpy(),
        "confidence": outcomes.confidence,
    }
