"""A trained folder goes in; a folder with its towers as ONNX files, and all that one needs beside them, comes out."""

import importlib.metadata
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from ...data.images.preprocess import Preprocess
from ...evaluation.encode import longest_text
from ...evaluation.evaluate_dataset import log_scale
from ...evaluation.load_model import load_model
from ...evaluation.report.metric_tables import weights_sha256
from ...hub.errors_clipscratch import ClipScratchError
from ...utils.atomic_files import check_new_folder, write_new_folder
from ...utils.names import once_each
from .onnx_parity import check_agreement
from .onnx_towers import OPSET, SIDES, file_name, write_tower
from .precision import onnx_libraries, write_precision

logger = logging.getLogger(__name__)

TABLE = "onnx.json"
PACKAGES = ("clipscratch", "torch", "transformers", "onnx", "onnxscript", "onnxruntime")


def load_for_export(folder: str | Path):
    """(model in float32 on the CPU, processor).

    Raises: ClipScratchError if the folder holds no trained ClipScratch model.
    """
    onnx_libraries()  # before the model is loaded
    if not Path(folder).is_dir():
        raise ClipScratchError(
            f"{folder} is not a folder; give one that clipscratch train wrote, or a copy of it from the Hub."
        )
    model, processor = load_model(folder, "cpu")
    if model.config.model_type != "clipscratch":
        raise ClipScratchError(
            f"{folder} holds a model of type {model.config.model_type!r}; only 'clipscratch' is exported. For others "
            "there is optimum-cli export onnx."
        )
    return model.float(), processor


def export_onnx(folder: str | Path, output_dir: str | Path, *, precisions: Sequence[str] = ("fp32",)) -> dict:
    """Writes `text_model.onnx`, `vision_model.onnx` (`..._fp16.onnx`, `..._int8.onnx`), `onnx.json`, the tokenizer and
    the processor's settings.

    Every file is held to PyTorch before the folder gets its name, see `agreement.check_agreement`. Of the int8 files
    the embedding of an input depends a little on what shares its batch, since scales are of whole batches.

    Args:
        folder: that training wrote.
        output_dir: a new folder.
        precisions: of `PRECISIONS`, at least one.
    Returns: what `onnx.json` says: `files` and `largest_distance` by precision and side, `logit_scale` (natural log of
        the inverse temperature), `logit_bias`, `image_size`, `max_length` in tokens, `opset`, the source with the
        SHA-256 of its weights, and versions. A picture's logit for a text is exp(logit_scale) times the inner product
        of their embeddings, plus the bias where there is one.
    Raises: ClipScratchError if there is no model, something is at `output_dir`, or a file is not true to the model.

    >>> table = export_onnx("runs/digits", "onnx")
    >>> table["files"]["fp32"]["text"], table["opset"]
    ('text_model.onnx', 20)
    """
    once_each("precision", precisions)
    check_new_folder("output_dir", output_dir)
    model, processor = load_for_export(folder)
    told = {}

    def fill(where):
        told.update(_described(folder, model, processor), **write_towers(model, processor, where, precisions))
        processor.save_pretrained(where)
        (where / TABLE).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")

    write_new_folder(output_dir, fill)
    return told


def write_towers(model, processor, where: Path, precisions: Sequence[str]) -> dict:
    """Writes and checks the ONNX files alone. Returns: `files` and `largest_distance`, precision -> side -> value."""
    image_size = Preprocess(processor.image_processor).image_size
    sizes = {"image_size": image_size, "longest": longest_text(model, processor.tokenizer)}
    files, largest = {}, {}
    for side in SIDES:
        plain = where / file_name(side, "fp32")
        logger.info("exporting the %s tower ...", side)
        write_tower(model, side, image_size, plain)
        for precision in precisions:
            path = where / file_name(side, precision)
            if path != plain:
                write_precision(plain, precision, path)
            largest.setdefault(precision, {})[side] = check_agreement(model, side, path, precision, **sizes)
            files.setdefault(precision, {})[side] = path.name
        if "fp32" not in precisions:
            plain.unlink()
    return {"files": files, "largest_distance": largest}


def _described(folder, model, processor):
    return {
        "source": Path(folder).resolve().name,
        "source_sha256": weights_sha256(folder),
        "opset": OPSET,
        "embedding_size": model.config.projection_dim,
        "logit_scale": log_scale(model),
        "logit_bias": None if model.logit_bias is None else model.logit_bias.item(),
        "image_size": list(Preprocess(processor.image_processor).image_size),
        "max_length": longest_text(model, processor.tokenizer),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
