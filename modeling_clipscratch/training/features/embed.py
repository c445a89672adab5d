"""Embed the images and texts of a dataset, from cached features where there are any, split among the processes."""

import math
from collections.abc import Callable

import torch
from torch.nn.functional import normalize as unit_length
from tqdm.auto import tqdm

from ...data.batches.map_batches import PairDataset
from ...data.images.augment import Augment
from ...evaluation.encode import encode_pixels, encode_texts, reading
from ..loss.gather import all_rows, process_count, process_index


def embed_split(model, pairs: PairDataset, look: Augment, batch_size: int, *, progress: bool = False) -> torch.Tensor:
    """Return the (N, P) float32 unit embeddings of all images, not augmented, on the CPU."""
    features, quiet = pairs.image_features, not progress or process_index() > 0

    def encode(rows):
        embeds = []
        batches = pairs.plain_images(rows, batch_size) if features is None else features[rows].split(batch_size)
        with tqdm(total=len(rows), unit=" images", desc=f"embedding {pairs.dataset.split}", disable=quiet) as bar:
            for batch in batches:
                if features is None:
                    embeds.append(encode_pixels(model, batch, look.mean, look.std, batch_size))
                else:
                    embeds.append(_project(model, model.get_image_features, image_features=batch))
                bar.update(len(batch))
        return torch.cat(embeds)

    return _split(len(pairs), encode, model.device)


def text_encoder(model, tokenizer, pairs: PairDataset, batch_size: int) -> Callable[[list[str]], torch.Tensor]:
    """Return a function from M texts to their (M, P) float32 unit embeddings, from the cached features of `pairs`."""
    features = pairs.texts.features
    place = {text: number for number, text in enumerate(pairs.captions.texts)}

    def encode_unique(unique):
        if features is None:
            return encode_texts(model, tokenizer, unique, batch_size=batch_size, warn=False)
        return _project(model, model.get_text_features, text_features=features[[place[text] for text in unique]])

    def encode(texts):
        unique = list(dict.fromkeys(texts))
        number = {text: row for row, text in enumerate(unique)}
        embeds = _split(len(unique), lambda rows: encode_unique([unique[row] for row in rows]), model.device)
        return embeds[[number[text] for text in texts]]

    return encode


def _split(count: int, encode: Callable[[torch.Tensor], torch.Tensor], device) -> torch.Tensor:
    """Return (count, P) of `encode`, which takes rows: each process encodes its share, all get all."""
    processes = process_count()
    share = math.ceil(count / processes)
    own = torch.arange(process_index(), share * processes, processes)
    own = torch.where(own < count, own, 0)  # gathered parts must be equal
    parts = all_rows(encode(own).to(device)).cpu().unflatten(0, (processes, share))
    return parts.transpose(0, 1).flatten(0, 1)[:count]


def _project(model, get_features, **features):
    with reading(model):
        inputs = {name: tensor.to(model.device) for name, tensor in features.items()}
        return unit_length(get_features(**inputs).pooler_output.float(), dim=-1).cpu()
