"""Encode images and texts to unit embeddings: (N, P), float32 on the CPU, in the given order."""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Literal

import datasets
import numpy as np
import torch
from torch.nn.functional import normalize as unit_length

from ..data.batches.captions import TokenTable
from ..data.images.preprocess import normalize
from ..hub.towers_clipscratch import first_position

logger = logging.getLogger(__name__)

# Images at once on a CPU. More than its caches hold are slower: a core encodes 182 images/s 32 at a time and 159 256 at
# a time (ViT 192 wide, 6 deep, 32x32 pixels), 28 and 22 32 and 128 at a time (ViT-tiny, 224x224).
CPU_BATCH = 32


@contextmanager
def reading(model: torch.nn.Module) -> Iterator[None]:
    """Set `eval()` and compute no gradients inside; restore the mode of each module afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def encode_pixels(model, pixels, mean: Sequence[float], std: Sequence[float], batch_size: int = 256) -> torch.Tensor:
    """Encode (N, H, W, 3) uint8 images; `mean` and `std` (3,) normalise pixels in [0, 1]."""
    batch_size = min(batch_size, CPU_BATCH) if model.device.type == "cpu" else batch_size
    # The towers may have different dtypes (a frozen one in bfloat16), which `model.dtype` does not tell.
    dtype = next(model.vision_model.parameters()).dtype
    embeds = []
    with reading(model):
        for images in torch.as_tensor(pixels).split(batch_size):
            pixel_values = normalize(images.to(model.device), mean, std).to(dtype)
            features = model.get_image_features(pixel_values=pixel_values).pooler_output
            embeds.append(unit_length(features.float(), dim=-1).cpu())
    return torch.cat(embeds)


def encode_images(
    model,
    preprocess,
    dataset: datasets.Dataset,
    *,
    batch_size: int = 256,
    on_bad_row: Literal["raise", "skip"] = "raise",
    progress: bool = False,
) -> tuple[torch.Tensor, np.ndarray]:
    """Read, preprocess and encode the image of every row of a prepared dataset, with at most two batches in memory.

    Returns embeddings (N, P), and the row of each (N,): all rows unless broken images were skipped. The options and
    errors are those of `preprocess.read_each`.
    """
    images = preprocess.read_each(dataset, on_bad_row=on_bad_row, progress=progress, batch_size=batch_size)
    embeds, kept = [], []
    while batch := list(islice(images, batch_size)):
        rows, pixels = zip(*batch, strict=True)
        embeds.append(encode_pixels(model, np.stack(pixels), preprocess.mean, preprocess.std, batch_size))
        kept += rows
    return torch.cat(embeds), np.array(kept, dtype=np.int64)


def encode_texts(model, tokenizer, texts: Sequence[str], *, batch_size: int = 256, warn: bool = True) -> torch.Tensor:
    """Encode M texts, each different text once.

    Texts of similar length share a batch; those longer than the text tower reads are cut. `warn` logs how many are cut,
    and which words are unknown.
    """
    unique = list(dict.fromkeys(texts))
    place = {text: number for number, text in enumerate(unique)}
    longest = longest_text(model, tokenizer)
    # SigLIP pools the last token, and was trained with texts padded to the full length, without a mask.
    full = longest if model.config.model_type == "siglip" else None
    if full and "Gemma" in type(tokenizer).__name__:  # SigLIP 2, trained with lower-case texts
        unique = [text.lower() for text in unique]
    if warn and (note := note_of_unknown(tokenizer, unique)):
        logger.warning(note)
    tokens = TokenTable(unique, tokenizer, longest, warn=warn)
    # Longest first, so that a lack of memory shows at once.
    order = torch.from_numpy(np.argsort(-tokens.lengths, kind="stable"))
    embeds = []
    with reading(model):
        for chosen in order.split(batch_size):
            inputs = {name: tensor.to(model.device) for name, tensor in tokens.batch(chosen, length=full).items()}
            if full:
                del inputs["attention_mask"]
            features = model.get_text_features(**inputs).pooler_output
            embeds.append(unit_length(features.float(), dim=-1).cpu())
    # Indexed outside `reading`: an inference tensor can never be written to or used with gradients.
    return torch.cat(embeds)[order.argsort()[[place[text] for text in texts]]]


def longest_text(model, tokenizer) -> int:
    """Return how many tokens the text tower reads: the limit of the tokenizer or the positions of the tower."""
    text = model.config.text_config.to_dict()
    if "max_position_embeddings" not in text:  # towers with relative positions (T5) have no maximum
        return tokenizer.model_max_length
    return min(tokenizer.model_max_length, text["max_position_embeddings"] - first_position(model.text_model))


def note_of_unknown(tokenizer, texts: Sequence[str]) -> str:
    """Name the words of texts that the tokenizer maps to its token for unknown words; empty if there are none."""
    words = list(dict.fromkeys(word for text in texts for word in re.findall(r"\w[\w'-]*", text)))
    tokens = tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"] if words else []
    unknown = [word for word, ids in zip(words, tokens, strict=True) if tokenizer.unk_token_id in ids]
    if not unknown:
        return ""
    more = f" and {len(unknown) - 10:,} others" if len(unknown) > 10 else ""
    return f"The tokenizer does not know these words: {', '.join(unknown[:10])}{more}."
