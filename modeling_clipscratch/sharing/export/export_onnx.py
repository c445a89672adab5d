"""Export a trained folder as ONNX files of its towers, with all that their user needs beside them."""

import importlib.metadata
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from ...data.images.preprocess import Preprocess
from ...evaluation.encode import longest_text
from ...evaluation.evaluate_dataset import log_scale
from ...evaluation.load_model import load_model
from ...evaluation.report.html_report import versions
from ...evaluation.report.metric_tables import weights_sha256
from ...hub.errors_clipscratch import ClipScratchError
from ...utils.atomic_files import check_new_folder, write_whole
from ...utils.names import once_each
from .onnx_parity import check_parity
from .onnx_towers import OPSET, SIDES, file_name, write_tower
from .precision import onnx_libraries, write_precision

logger = logging.getLogger(__name__)

TABLE = "onnx.json"


def load_for_export(folder: str | Path):
    """Load (model in float32 on the CPU, processor); raise `ClipScratchError` if it is no ClipScratch model."""
    onnx_libraries()  # before the model is loaded
    if not Path(folder).is_dir():
        raise ClipScratchError(f"{folder} is not a folder; give one that training wrote, or a copy from the Hub.")
    model, processor = load_model(folder, "cpu")
    if model.config.model_type != "clipscratch":
        raise ClipScratchError(
            f"{folder} holds a model of type {model.config.model_type!r}, and only 'clipscratch' is exported; for "
            "others there is optimum-cli export onnx."
        )
    return model.float(), processor


def export_onnx(folder: str | Path, output_dir: str | Path, *, precisions: Sequence[str] = ("fp32",)) -> dict:
    """Write `text_model.onnx`, `vision_model.onnx` (`..._fp16.onnx`, `..._int8.onnx`), `onnx.json` and the processor.

    Every file is compared with PyTorch before the folder gets its name, see `check_parity`. With int8 the embedding of
    an input depends a little on the other inputs of its batch, since scales belong to whole batches.

    Args:
        folder: The folder that training wrote.
        output_dir: A new folder.
        precisions: At least one of `fp32`, `fp16`, `int8`.

    Returns:
        The content of `onnx.json`: `files` and `largest_distance` by precision and side, `logit_scale` (natural
        logarithm of the inverse temperature), `logit_bias`, `image_size`, `max_length` in tokens, `opset`, the source
        with the SHA-256 of its weights, and versions. The logit of an image and a text is exp(logit_scale) times the
        inner product of their embeddings, plus the bias where there is one.

    Raises:
        ClipScratchError: If there is no model, something is at `output_dir`, or a file differs too much.

    >>> table = export_onnx("runs/digits", "onnx")
    >>> table["files"]["fp32"]["text"], table["opset"]
    ('text_model.onnx', 20)
    """
    once_each("precision", precisions)
    check_new_folder("output_dir", output_dir)
    model, processor = load_for_export(folder)
    table = {
        "source": Path(folder).resolve().name,
        "source_sha256": weights_sha256(folder),
        "opset": OPSET,
        "embedding_size": model.config.projection_dim,
        "logit_scale": log_scale(model),
        "logit_bias": None if model.logit_bias is None else model.logit_bias.item(),
        "image_size": list(Preprocess(processor.image_processor).image_size),
        "max_length": longest_text(model, processor.tokenizer),
        "versions": versions() | {name: importlib.metadata.version(name) for name in ("onnx", "onnxruntime")},
    }

    def fill(new):
        table.update(write_towers(model, processor, new, precisions))
        processor.save_pretrained(new)
        (new / TABLE).write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")

    write_whole(output_dir, fill, folder=True)
    return table


def write_towers(model, processor, folder: Path, precisions: Sequence[str]) -> dict:
    """Write and compare the ONNX files alone; return `files` and `largest_distance`, {precision: {side: value}}."""
    image_size = Preprocess(processor.image_processor).image_size
    longest = longest_text(model, processor.tokenizer)
    files, largest = ({precision: {} for precision in precisions} for _ in range(2))
    for side in SIDES:
        plain = folder / file_name(side, "fp32")
        logger.info("exporting the %s tower ...", side)
        write_tower(model, side, image_size, plain)
        for precision in precisions:
            path = folder / file_name(side, precision)
            if path != plain:
                write_precision(plain, precision, path)
            largest[precision][side] = check_parity(
                model, side, path, precision, image_size=image_size, longest=longest
            )
            files[precision][side] = path.name
        if "fp32" not in precisions:
            plain.unlink()
    return {"files": files, "largest_distance": largest}
