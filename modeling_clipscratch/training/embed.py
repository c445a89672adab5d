"""A model and a pair data set go in; unit embeddings of its pictures and texts, cached where possible, come out."""

import math
from collections.abc import Callable

import torch
from torch.nn.functional import normalize as unit_length

from ..data.augment import Augment
from ..data.batches import PairDataset
from ..evaluation.encode import encode_pixels, encode_texts, reading
from .gather import all_rows, process_count, process_index


def embed_split(model, pairs: PairDataset, look: Augment, batch_size: int) -> torch.Tensor:
    """(N, P) float32 unit embeddings of all plain pictures, on the CPU; the processes share the work, all get all."""
    processes, count = process_count(), len(pairs)
    shares = [range(count)[rank::processes] for rank in range(processes)]
    longest = math.ceil(count / processes)
    mine = torch.tensor([*shares[process_index()], 0][:longest])  # padded: gathered parts must be equal
    images = embed_pictures(model, pairs, mine, look, batch_size)
    if processes == 1:
        return images
    gathered = all_rows(images.to(model.device)).cpu().split(longest)
    images = torch.empty(count, images.shape[1])
    for share, part in zip(shares, gathered, strict=True):
        images[list(share)] = part[: len(share)]
    return images


def embed_pictures(model, pairs: PairDataset, indices: torch.Tensor, look: Augment, batch_size: int) -> torch.Tensor:
    """(n,) row indices -> (n, P) float32 unit embeddings of the plain pictures, on the CPU."""
    if pairs.image_states is None:
        pictures = pairs.plain_pictures(indices, batch_size)
        parts = [encode_pixels(model, some, look.mean, look.std, batch_size) for some in pictures]
    else:
        states = pairs.image_states[indices, 0].split(batch_size)
        parts = [_from_states(lambda some: model.get_image_features(image_states=some), model, some) for some in states]
    return torch.cat(parts)


def text_encoder(model, tokenizer, pairs: PairDataset, batch_size: int) -> Callable[[list[str]], torch.Tensor]:
    """A function from M texts to (M, P) float32 unit embeddings; it takes cached states where `pairs` has them."""
    if pairs.text_states is None:
        return lambda texts: encode_texts(model, tokenizer, texts, batch_size=batch_size, say_cut=False)
    place = {text: number for number, text in enumerate(pairs.captions.texts)}

    def encode(texts):
        states = pairs.text_states[[place[text] for text in texts]]
        return _from_states(lambda states: model.get_text_features(text_states=states), model, states)

    return encode


def _from_states(features, model, states):
    with reading(model):
        return unit_length(features(states.to(model.device)).pooler_output.float(), dim=-1).cpu()
