"""A model and an ONNX file of one of its towers go in; how far apart their embeddings are comes out, or an error."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ...hub.errors_clipscratch import ClipScratchError
from .onnx_towers import tower
from .precision import onnx_libraries

# Largest distance between the two unit embeddings of one input. Of trained models: 2e-6, 7e-4, 0.08.
BOUNDS = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.25}
# (batch, part of the longest text)
TEXT_BATCHES = ((1, 0.0), (1, 0.3), (4, 1.0), (7, 0.5))
IMAGE_BATCHES = (1, 3)


def open_session(path: Path, *, threads: int | None = None):
    """An onnxruntime session on the CPU.

    Args:
        threads: as many as torch uses, if not said.
    """
    _, onnxruntime = onnx_libraries()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3  # errors; it warns of initialisers that it does not need
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def check_agreement(
    model, side: str, path: Path, precision: str, *, image_size: tuple[int, int], longest: int
) -> float:
    """Runs both on batches of 1 and of several, texts of several lengths with padding of any kind.

    Args:
        model: what the file was made of.
        side: `text` or `vision`.
        precision: says the bound.
        image_size: height and width in pixels.
        longest: tokens of the longest text.
    Returns: the largest distance between two embeddings of one input.
    Raises: ClipScratchError if it is above the bound, or no number.
    """
    session, largest = open_session(path), 0.0
    reference = tower(model, side)
    inputs = _texts(model.config.text_config.vocab_size, longest) if side == "text" else _images(image_size)
    for batch in inputs:
        with torch.inference_mode():
            expected = reference(**{name: torch.from_numpy(array) for name, array in batch.items()}).numpy()
        (found,) = session.run(None, batch)
        largest = max(largest, float(np.linalg.norm(found - expected, axis=1).max()))
        if not largest <= BOUNDS[precision]:  # NaN too
            raise ClipScratchError(
                f"the {side} tower in {precision} misses PyTorch's embeddings by {largest:.2g}, and at most "
                f"{BOUNDS[precision]:g} is let pass; nothing was written. "
                + ("Please report it with the towers' names." if precision == "fp32" else "Leave that precision out.")
            )
    return largest


def _texts(words: int, longest: int) -> Iterator[dict[str, np.ndarray]]:
    """Random tokens; padded on the right, on the left, and with holes."""
    draw = np.random.default_rng(0)
    for batch, part in TEXT_BATCHES:
        length = max(1, round(part * longest))
        mask = np.ones((batch, length), dtype=np.int64)
        for row in range(1, batch):
            kept = draw.integers(1, length + 1)
            mask[row] = (np.arange(length) < kept, np.arange(length) >= length - kept, draw.random(length) < 0.7)[
                row % 3
            ]
            mask[row, draw.integers(length)] = 1
        yield {"input_ids": draw.integers(0, words, (batch, length)), "attention_mask": mask}


def _images(image_size: tuple[int, int]) -> Iterator[dict[str, np.ndarray]]:
    draw = np.random.default_rng(0)
    for batch in IMAGE_BATCHES:
        yield {"pixel_values": draw.uniform(-2, 2, (batch, 3, *image_size)).astype(np.float32)}
