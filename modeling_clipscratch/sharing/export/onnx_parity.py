"""Compare the embeddings of an ONNX file with those of the model that it was made of."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ...hub.errors_clipscratch import ClipScratchError
from .onnx_towers import tower
from .precision import onnx_libraries

# Largest distance between the two unit embeddings of one input; measured on trained models: 2e-6, 7e-4, 0.08.
BOUNDS = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.25}
_TEXT_BATCHES = ((1, 0.0), (1, 0.3), (4, 1.0), (7, 0.5))  # (batch, share of the longest text)
_IMAGE_BATCHES = (1, 3)


def open_session(path: Path, *, threads: int | None = None):
    """Open an onnxruntime session on the CPU, by default with as many threads as torch uses."""
    _, onnxruntime = onnx_libraries()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3  # errors; it warns of unused initialisers
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def check_parity(model, side: str, path: Path, precision: str, *, image_size: tuple[int, int], longest: int) -> float:
    """Compare a file with its model on batches of one and several, and texts of several lengths and paddings.

    Args:
        model: The model that the file was made of.
        side: `text` or `vision`.
        precision: Key of `BOUNDS`.
        image_size: Height and width in pixels.
        longest: Tokens of the longest text.

    Returns:
        The largest distance between two embeddings of one input.

    Raises:
        ClipScratchError: If it is above the bound, or NaN.
    """
    session, reference, largest = open_session(path), tower(model, side), 0.0
    inputs = _texts(model.config.text_config.vocab_size, longest) if side == "text" else _images(image_size)
    for batch in inputs:
        with torch.inference_mode():
            expected = reference(**{name: torch.from_numpy(array) for name, array in batch.items()}).numpy()
        (embeds,) = session.run(None, batch)
        largest = max(largest, float(np.linalg.norm(embeds - expected, axis=1).max()))
        if not largest <= BOUNDS[precision]:  # NaN too
            remedy = "report it with the names of the towers" if precision == "fp32" else "leave that precision out"
            raise ClipScratchError(
                f"the {side} tower in {precision} differs from PyTorch's embeddings by {largest:.2g}, and at most "
                f"{BOUNDS[precision]:g} is accepted; nothing was written, {remedy}."
            )
    return largest


def _texts(vocabulary: int, longest: int) -> Iterator[dict[str, np.ndarray]]:
    """Random tokens, padded on the right, on the left, and with holes."""
    random = np.random.default_rng(0)
    for batch, share in _TEXT_BATCHES:
        length = max(1, round(share * longest))
        place, kept = np.arange(length), random.integers(1, length + 1, (batch, 1))
        masks = [place < kept, place >= length - kept, random.random((batch, length)) < 0.7]
        mask = np.stack([masks[row % 3][row] for row in range(batch)])
        mask[0] = True
        mask[np.arange(batch), random.integers(length, size=batch)] = True
        yield {"input_ids": random.integers(0, vocabulary, mask.shape), "attention_mask": mask.astype(np.int64)}


def _images(image_size: tuple[int, int]) -> Iterator[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    for batch in _IMAGE_BATCHES:
        yield {"pixel_values": random.uniform(-2, 2, (batch, 3, *image_size)).astype(np.float32)}
