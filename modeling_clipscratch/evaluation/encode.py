"""Encode images and texts: unit embeddings (N, P), float32 on the CPU, in the order given."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import datasets
import numpy as np
import torch
from torch.nn.functional import normalize as unit_length

from ..data.batches.captions import TokenTable
from ..data.images.preprocess import normalize
from ..hub.errors_clipscratch import ClipScratchError
from ..hub.towers_clipscratch import first_position
from ..utils.names import printable

# More pictures at once than a processor's caches hold are slower: a core encodes 182 a second 32 at a time and 159 of
# them 256 at a time (ViT 192 wide, 6 deep, 32x32), 28 and 22 a second 32 and 128 at a time (ViT-tiny, 224x224).
CPU_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class ImageEmbeddings:
    """
    Args:
        embeds: (N, P) float32 on the CPU, unit length.
        kept: (N,) int64, the row of each; all of them unless broken images were skipped.
    """

    embeds: torch.Tensor
    kept: np.ndarray


@contextmanager
def reading(model: torch.nn.Module) -> Iterator[None]:
    """`eval()` and no gradients inside; afterwards each module is in the mode that it was in, frozen ones too."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def encode_pixels(model, pixels, mean: Sequence[float], std: Sequence[float], batch_size: int = 256) -> torch.Tensor:
    """Prepared pictures -> unit embeddings.

    Args:
        model: with `get_image_features` as in transformers 5, e.g. `ClipScratchModel` or `CLIPModel`.
        pixels: (N, H, W, 3) uint8, array or tensor, of the size that the model reads.
        mean: (3,) subtracted after scaling to [0, 1].
        std: (3,) divided by.
        batch_size: pictures at once, at most; on a CPU no more than `CPU_BATCH`.
    Returns: (N, P) float32 on the CPU.
    """
    batch_size = min(batch_size, CPU_BATCH) if model.device.type == "cpu" else batch_size
    pixels = torch.as_tensor(pixels)
    # The towers may be of two dtypes (a frozen one in bfloat16), so `model.dtype` would not do.
    dtype = next(model.vision_model.parameters()).dtype
    embeds = []
    with reading(model):
        for images in pixels.split(batch_size):
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
) -> ImageEmbeddings:
    """Read, prepare and encode the image of every row; no more than two batches are in memory.

    Args:
        model: as for `encode_pixels`.
        preprocess: a `data.pixels.Preprocess`.
        dataset: prepared, N rows; texts and labels are not read.
        batch_size: images read ahead, and encoded at once as in `encode_pixels`.
        on_bad_row: `raise`, or `skip`: leave broken images out and name them in one warning.
        progress: show a bar.
    Raises:
        BadImageError: if an image cannot be read and `on_bad_row` is `raise`.
        ClipScratchError: if no image at all can be read.

    >>> from modeling_clipscratch.data import Preprocess, load_data
    >>> from modeling_clipscratch.evaluation import load_model
    >>> model, processor = load_model("runs/digits")
    >>> images = encode_images(model, Preprocess(processor.image_processor), load_data("digits")["validation"])
    >>> images.embeds.shape, len(images.kept)
    (torch.Size([180, 16]), 180)
    """
    images = preprocess.read_each(dataset, on_bad_row=on_bad_row, progress=progress, batch_size=batch_size)
    embeds, kept = [], []
    while batch := list(islice(images, batch_size)):
        rows, pixels = zip(*batch, strict=True)
        embeds.append(encode_pixels(model, np.stack(pixels), preprocess.mean, preprocess.std, batch_size))
        kept += rows
    return ImageEmbeddings(embeds=torch.cat(embeds), kept=np.array(kept, dtype=np.int64))


def encode_texts(
    model, tokenizer, texts: Sequence[str], *, batch_size: int = 256, say_cut: bool = True
) -> torch.Tensor:
    """Texts -> unit embeddings. Each different text is encoded once; texts of like length share a batch.

    Args:
        model: with `get_text_features` as in transformers 5; `SiglipModel` is read as it learned.
        tokenizer: the model's own.
        texts: M texts; those longer than the tower reads are cut, and one warning says how many.
        batch_size: texts at once.
        say_cut: warn of texts that are too long; a caller that has said so already leaves it out.
    Returns: (M, P) float32 on the CPU.
    Raises: ClipScratchError if a text is no Unicode, or has no token.

    >>> from modeling_clipscratch.evaluation import load_model
    >>> model, processor = load_model("runs/digits")
    >>> encode_texts(model, processor.tokenizer, ["the digit three.", "the digit eight."]).shape
    torch.Size([2, 16])
    """
    unique = list(dict.fromkeys(texts))
    broken = next((text for text in unique if printable(text) != text), None)
    if broken is not None:
        raise ClipScratchError(f"the text {broken!r} holds bytes that are no UTF-8; write it in UTF-8.")
    place = {text: number for number, text in enumerate(unique)}
    longest = longest_text(model, tokenizer)
    # SigLIP takes the last token for the text, and learned from texts padded to the full length, without a mask.
    full = longest if model.config.model_type == "siglip" else None
    if full and "Gemma" in type(tokenizer).__name__:  # SigLIP 2's, whose texts were in lower case
        unique = [text.lower() for text in unique]
    tokens = TokenTable(unique, tokenizer, longest, warn=say_cut)
    # Longest first: if memory is short, it is short at once.
    order = torch.from_numpy(np.argsort(-tokens.lengths, kind="stable"))
    embeds = None
    with reading(model):
        for chosen in order.split(batch_size):
            inputs = {name: tensor.to(model.device) for name, tensor in tokens.batch(chosen, length=full).items()}
            if full:
                del inputs["attention_mask"]
            features = model.get_text_features(**inputs).pooler_output
            features = unit_length(features.float(), dim=-1).cpu()
            if embeds is None:
                embeds = torch.empty(len(unique), features.shape[1])
            embeds[chosen] = features
    # Indexed outside `reading`: tensors born inside can never be written to or used with gradients.
    return embeds[[place[text] for text in texts]]


def longest_text(model, tokenizer) -> int:
    """Tokens that the text tower reads at most: the tokenizer's limit or the tower's positions, whichever is less."""
    text = model.config.text_config.to_dict()
    if "max_position_embeddings" not in text:  # towers with relative positions (T5) name no maximum
        return tokenizer.model_max_length
    return min(tokenizer.model_max_length, text["max_position_embeddings"] - first_position(model.text_model))
