"""Save the predictions of a `Result` as parquet, or its embeddings as safetensors."""

import json
from pathlib import Path

import torch
from datasets import Dataset
from safetensors.torch import save_file

from ...utils.atomic_files import write_whole
from ...utils.names import printable
from ..evaluate_dataset import Result


def save_predictions(path: str | Path, result: Result) -> None:
    """Write a row for each image (class data) or caption (caption data), with ranks of what is right, 1 for the best.

    Class data: `key`, `label`, `class_name`, `predicted`, `predicted_name`, `confidence`, `rank`. Caption data: `key`,
    `caption`, `text_to_image_rank`, and `image_to_text_rank` of the image.
    """
    outcomes, names, keys = result.outcomes, result.class_names, [printable(key) for key in result.keys]
    if names is not None:
        columns = {
            "key": keys,
            "label": outcomes.labels,
            "class_name": [names[label] for label in outcomes.labels],
            "predicted": result.predicted,
            "predicted_name": [names[label] for label in result.predicted],
            "confidence": outcomes.confidence,
            "rank": outcomes.ranks,
        }
    else:
        owners = outcomes.caption_to_image
        columns = {
            "key": [keys[owner] for owner in owners],
            "caption": [caption for captions in result.captions for caption in captions],
            "text_to_image_rank": outcomes.text_ranks,
            "image_to_text_rank": outcomes.image_ranks[owners],
        }
    write_whole(path, Dataset.from_dict(columns).to_parquet)


def save_embeddings(path: str | Path, result: Result) -> None:
    """Write unit embeddings, float32: `image_embeds` (N, P) and `text_embeds`, of classes (C, P) with `labels` (N,), or
    of captions (M, P) with `caption_to_image` (M,). The metadata of the file hold the keys of the images as JSON.
    """
    name = "labels" if result.kind == "class" else "caption_to_image"
    tensors = {"image_embeds": result.image_embeds, "text_embeds": result.text_embeds}
    tensors[name] = torch.as_tensor(getattr(result.outcomes, name))
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    keys = json.dumps([printable(key) for key in result.keys], ensure_ascii=False)  # a header holds at most 100 MB
    metadata = {"keys": keys, "dataset": printable(result.dataset.info.dataset_name or ""), "split": result.split}
    write_whole(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))
