"""Export the towers of a trained folder as ONNX files, each compared with PyTorch."""

import json
import logging
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ...data.images.preprocess import Preprocess
from ...evaluation.encode import longest_text
from ...evaluation.evaluate_dataset import log_scale
from ...evaluation.load_model import load_model
from ...evaluation.report.metric_tables import weights_sha256
from ...hub.losses_clipscratch import unit_length
from ...utils.atomic_files import check_new_folder, write_whole
from ...utils.errors import ClipScratchError

logger = logging.getLogger(__name__)

SIDES = ("text", "vision")
# Largest distance between the two unit embeddings of one input; measured on trained models: 2e-6 and 0.08.
BOUNDS = {"fp32": 1e-4, "int8": 0.25}
PRECISIONS = tuple(BOUNDS)
OPSET = 20  # the first with Gelu, one node in place of five
_BLOCK = 32  # 8-bit weights that share a scale


def load_for_export(folder: str | Path):
    """Load (model in float32 on the CPU, processor) of a ClipScratch folder."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError as error:
        raise ClipScratchError(
            f"an export needs {error.name}, which is not installed: pip install 'clipscratch[export]'"
        ) from error
    model, processor = load_model(folder, "cpu")
    if model.config.model_type != "clipscratch":
        raise ClipScratchError(
            f"{folder} holds a model of type {model.config.model_type!r}, and only 'clipscratch' is exported; for "
            "others there is optimum-cli export onnx."
        )
    return model.float(), processor


def export_onnx(folder: str | Path, output_dir: str | Path, *, precisions: Sequence[str] = ("fp32",)) -> dict:
    """Write `text_model.onnx`, `vision_model.onnx` (with int8 `..._int8.onnx`), `onnx.json` and the processor.

    Every file is compared with PyTorch before the folder gets its name. With int8 the embedding of an input depends a
    little on the other inputs of its batch, since scales belong to whole batches.

    Args:
        folder: The folder that training wrote.
        output_dir: A new folder.
        precisions: `fp32`, `int8` or both.

    Returns:
        The content of `onnx.json`: `files` and `largest_distance` by precision and side, `logit_scale` (natural
        logarithm of the inverse temperature), `logit_bias`, `image_size`, `max_length` in tokens, and the source with
        the SHA-256 of its weights. The logit of an image and a text is exp(logit_scale) times the inner product of
        their embeddings, plus the bias where there is one.

    Raises:
        ClipScratchError: If there is no model, something is at `output_dir`, or a file differs too much.

    >>> export_onnx("runs/digits", "onnx")["files"]  # doctest: +SKIP
    {'fp32': {'text': 'text_model.onnx', 'vision': 'vision_model.onnx'}}
    """
    check_new_folder("output_dir", output_dir)
    model, processor = load_for_export(folder)
    table = {
        "source": Path(folder).resolve().name,
        "source_sha256": weights_sha256(folder),
        "logit_scale": log_scale(model),
        "logit_bias": None if model.logit_bias is None else model.logit_bias.item(),
        "image_size": list(Preprocess(processor.image_processor).image_size),
        "max_length": longest_text(model, processor.tokenizer),
    }

    def fill(new):
        table.update(write_towers(model, processor, new, precisions))
        processor.save_pretrained(new)
        (new / "onnx.json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")

    write_whole(output_dir, fill, folder=True)
    return table


def write_towers(model, processor, folder: Path, precisions: Sequence[str]) -> dict:
    """Write and compare the ONNX files alone; return the `files` and `largest_distance` of `onnx.json`."""
    image_size = Preprocess(processor.image_processor).image_size
    vocabulary, longest = model.config.text_config.vocab_size, longest_text(model, processor.tokenizer)
    files, largest = ({precision: {} for precision in precisions} for _ in range(2))
    for side in SIDES:
        plain = folder / f"{side}_model.onnx"
        logger.info("exporting the %s tower ...", side)
        write_tower(model, side, image_size, plain)
        for precision in precisions:
            path = plain
            if precision == "int8":
                path = folder / f"{side}_model_int8.onnx"
                _write_int8(plain, path)
            inputs = _texts(vocabulary, longest) if side == "text" else _images(image_size)
            files[precision][side] = path.name
            largest[precision][side] = _check_parity(model, side, path, precision, inputs)
        if "fp32" not in precisions:
            plain.unlink()
    return {"files": files, "largest_distance": largest}


class Tower(nn.Module):
    """The module that one file is made of: its outputs are (B, P) of unit length."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids=None, attention_mask=None, pixel_values=None):
        if pixel_values is None:
            output = self.model.get_text_features(input_ids=input_ids, attention_mask=attention_mask, return_dict=True)
        else:
            output = self.model.get_image_features(pixel_values=pixel_values, return_dict=True)
        return unit_length(output.pooler_output)


def write_tower(model, side: str, image_size: tuple[int, int], path: Path) -> None:
    """Write one tower in float32, for batches and texts of any size."""
    model.set_attn_implementation("eager")  # the graph of `sdpa` has a third more nodes, for rows without any token
    if side == "text":
        ids = torch.zeros(2, 2, dtype=torch.int64)  # a size of 1 would be taken for a constant
        inputs, axes = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, {0: "batch", 1: "tokens"}
    else:
        inputs, axes = {"pixel_values": torch.zeros(2, 3, *image_size)}, {0: "batch"}
    with _quiet():
        torch.onnx.export(
            Tower(model),
            kwargs=inputs,
            f=str(path),
            dynamo=True,
            input_names=list(inputs),
            output_names=["text_embeds" if side == "text" else "image_embeds"],
            dynamic_shapes=dict.fromkeys(inputs, axes),
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )


@contextmanager
def _quiet():
    """Suppress the exporter's warnings of missing operators of torchvision, and the progress of the quantisation."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def _write_int8(source, path):
    """Quantise dynamically, but with a scale for each 32 weights in the matrices that narrow.

    The output of an MLP's widening half has outliers: a ViT-tiny keeps a mean cosine of 0.91 to its float32 self with
    all matrices dynamic, and 0.9993 this way. Weights of the others have a scale a column (a MiniLM keeps 0.993, with a
    scale a matrix 0.89) and seven bits: with eight a CPU with AVX2 but without VNNI overflows.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    model = onnx.load(source)
    shapes = {weight.name: list(weight.dims) for weight in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in shapes]
    narrowing = [node.name for node in products if shapes[node.input[1]][0] > shapes[node.input[1]][1]]
    with _quiet():
        if narrowing:
            # `accuracy_level=4`: activations in 8 bits; with floats a text takes a MiniLM six times as long.
            blocks = MatMulNBitsQuantizer(
                model, bits=8, block_size=_BLOCK, is_symmetric=True, accuracy_level=4, nodes_to_include=narrowing
            )
            blocks.process()
            model = blocks.model.model
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )


def open_session(path: Path, *, threads: int | None = None):
    """Open an onnxruntime session on the CPU, by default with as many threads as torch uses."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3  # errors; it warns of unused initialisers
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _check_parity(model, side, path, precision, inputs):
    session, reference, largest = open_session(path), Tower(model), 0.0
    for batch in inputs:
        with torch.inference_mode():
            expected = reference(**{name: torch.from_numpy(array) for name, array in batch.items()}).numpy()
        (embeds,) = session.run(None, batch)
        largest = max(largest, float(np.linalg.norm(embeds - expected, axis=1).max()))
        if not largest <= BOUNDS[precision]:  # NaN too
            raise ClipScratchError(
                f"the {side} tower in {precision} differs from PyTorch's embeddings by {largest:.2g}, and at most "
                f"{BOUNDS[precision]:g} is accepted; nothing was written, leave that precision out."
            )
    return largest


def _texts(vocabulary, longest):
    """Yield random tokens of several lengths, the first row of each batch whole, the others with holes."""
    random = np.random.default_rng(0)
    for batch, share in ((1, 0.0), (1, 0.3), (4, 1.0), (7, 0.5)):  # share of the longest text
        mask = random.random((batch, max(1, round(share * longest)))) < 0.7
        mask[0], mask[:, mask.shape[1] // 2] = True, True
        yield {"input_ids": random.integers(0, vocabulary, mask.shape), "attention_mask": mask.astype(np.int64)}


def _images(image_size):
    random = np.random.default_rng(0)
    for batch in (1, 3):
        yield {"pixel_values": random.uniform(-2, 2, (batch, 3, *image_size)).astype(np.float32)}
