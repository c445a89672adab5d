"""Save the predictions of a `Result` as parquet, or its embeddings as safetensors."""

import json
from pathlib import Path

import torch
from datasets import Dataset
from safetensors.torch import save_file

from ...utils.atomic_files import write_whole
from ...utils.names import printable
from ..evaluate_dataset import Result


def save_predictions(result: Result, path: str | Path) -> None:
    """Write a row an image (class data) or a caption (caption data), with the rank of what is right, 1 for the best.

    Class data: `key`, `label`, `class_name`, `predicted`, `predicted_name`, `confidence`, `rank`. Caption data: `key`,
    `caption`, `text_to_image_rank`, and the image's `image_to_text_rank`.

    >>> from modeling_clipscratch.data import load_data
    >>> from modeling_clipscratch.evaluation import evaluate_dataset, load_model
    >>> result = evaluate_dataset(*load_model("runs/digits"), load_data("digits")["test"])
    >>> save_predictions(result, "predictions.parquet")
    >>> Dataset.from_parquet("predictions.parquet", cache_dir="cache").column_names[:4]
    ['key', 'label', 'class_name', 'predicted']
    """
    outcomes, names = result.outcomes, result.class_names
    keys = [printable(key) for key in result.keys]
    if names is not None:
        columns = {
            "key": keys,
            "label": outcomes.labels,
            "class_name": [names[label] for label in outcomes.labels],
            "predicted": result.predicted,
            "predicted_name": [names[label] for label in result.predicted],
            "confidence": result.confidence,
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
    table = Dataset.from_dict(columns)
    write_whole(path, lambda temporary: table.to_parquet(temporary))


def save_embeddings(result: Result, path: str | Path) -> None:
    """Write unit embeddings, float32: `image_embeds` (N, P), `text_embeds` (C, P) of classes with `labels` (N,), or
    (M, P) of captions with `caption_to_image` (M,); the images' keys stand in the file's metadata as JSON.

    >>> from safetensors.torch import load_file
    >>> from modeling_clipscratch.data import load_data
    >>> from modeling_clipscratch.evaluation import evaluate_dataset, load_model
    >>> result = evaluate_dataset(*load_model("runs/digits"), load_data("digits")["test"])
    >>> save_embeddings(result, "embeds.safetensors")
    >>> sorted(load_file("embeds.safetensors"))
    ['image_embeds', 'labels', 'text_embeds']
    """
    tensors = {"image_embeds": result.image_embeds, "text_embeds": result.text_embeds}
    if result.kind == "class":
        tensors["labels"] = torch.as_tensor(result.outcomes.labels)
    else:
        tensors["caption_to_image"] = torch.as_tensor(result.outcomes.caption_to_image)
    keys = [printable(key) for key in result.keys]
    metadata = {"keys": json.dumps(keys, ensure_ascii=False)}  # a header holds 100 MB at most
    metadata |= {"dataset": printable(result.dataset.info.dataset_name or ""), "split": result.split}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_whole(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))
