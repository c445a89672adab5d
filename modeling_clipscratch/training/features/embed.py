"""Unit embeddings of the images and texts of a dataset, cached where possible, shared among the processes."""

import math
from collections.abc import Callable

import torch
from torch.nn.functional import normalize as unit_length

from ...data.batches.map_batches import PairDataset
from ...data.images.augment import Augment
from ...evaluation.encode import encode_pixels, encode_texts, reading
from ..loss.gather import all_rows, process_count, process_index


def embed_split(model, pairs: PairDataset, look: Augment, batch_size: int) -> torch.Tensor:
    """(N, P) float32 unit embeddings of all images, not augmented, on the CPU."""
    return _shared(len(pairs), lambda rows: embed_images(model, pairs, rows, look, batch_size), model.device)


def embed_images(model, pairs: PairDataset, rows: torch.Tensor, look: Augment, batch_size: int) -> torch.Tensor:
    """(n,) rows -> (n, P) float32 unit embeddings of the images, not augmented, on the CPU."""
    if pairs.image_states is None:
        images = pairs.plain_images(rows, batch_size)
        parts = [encode_pixels(model, some, look.mean, look.std, batch_size) for some in images]
    else:
        states = pairs.image_states[rows, 0].split(batch_size)
        parts = [_from_states(lambda some: model.get_image_features(image_states=some), model, some) for some in states]
    return torch.cat(parts)


def text_encoder(model, tokenizer, pairs: PairDataset, batch_size: int) -> Callable[[list[str]], torch.Tensor]:
    """A function from M texts to (M, P) float32 unit embeddings; it takes cached features where `pairs` has them."""
    features = pairs.texts.features
    place = {text: number for number, text in enumerate(pairs.captions.texts)}

    def encode_unique(unique):
        if features is None:
            return encode_texts(model, tokenizer, unique, batch_size=batch_size, warn=False)
        chosen = features[[place[text] for text in unique]]
        return _from_states(lambda states: model.get_text_features(text_states=states), model, chosen)

    def encode(texts):
        unique = list(dict.fromkeys(texts))
        number = {text: row for row, text in enumerate(unique)}
        embeds = _shared(len(unique), lambda rows: encode_unique([unique[row] for row in rows]), model.device)
        return embeds[[number[text] for text in texts]]

    return encode


def _shared(count: int, encode: Callable[[torch.Tensor], torch.Tensor], device) -> torch.Tensor:
    """(count, P) of `encode`, which takes rows; each process encodes its share, all get all."""
    processes = process_count()
    if processes == 1:
        return encode(torch.arange(count))
    share = math.ceil(count / processes)
    mine = torch.arange(process_index(), share * processes, processes)
    mine = torch.where(mine < count, mine, 0)  # gathered parts must be equal
    parts = all_rows(encode(mine).to(device)).cpu().unflatten(0, (processes, share))
    return parts.transpose(0, 1).flatten(0, 1)[:count]


def _from_states(features, model, states):
    with reading(model):
        return unit_length(features(states.to(model.device)).pooler_output.float(), dim=-1).cpu()
