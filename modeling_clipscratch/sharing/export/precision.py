"""Convert the ONNX file of a tower from float32 to half precision or to 8 bits."""

import logging
from pathlib import Path

from ...hub.errors_clipscratch import ClipScratchError

PRECISIONS = ("fp32", "fp16", "int8")
_BLOCK = 32  # weights that share a scale


def onnx_libraries():
    """Import (onnx, onnxruntime); raise `ClipScratchError` if a library of the export is not installed."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError as error:
        raise ClipScratchError(
            f"an export needs {error.name}, which is not installed: pip install 'clipscratch[export]'"
        ) from error
    return onnx, onnxruntime


def write_precision(source: Path, precision: str, path: Path) -> None:
    """Convert a file in float32 to `fp16` or `int8`; inputs and outputs keep their names and types."""
    (_write_half if precision == "fp16" else _write_int8)(source, path)


def _write_half(source, path):
    onnx, _ = onnx_libraries()
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load(source), keep_io_types=True)
    # A norm in half precision is off by up to 5e-4, so the float32 output is normalised once more.
    name = model.graph.output[0].name
    last = next(node for node in model.graph.node if name in node.output)
    last.output[0] = f"{name}_half"
    model.graph.node.append(onnx.helper.make_node("LpNormalization", [f"{name}_half"], [name], axis=-1, p=2))
    onnx.save(model, path)


def _write_int8(source, path):
    """Quantise dynamically, but with a scale for each 32 weights in the matrices that narrow.

    Dynamic quantisation has one scale for a whole activation, and the output of an MLP's widening half has outliers:
    a ViT-tiny keeps a mean cosine of 0.91 to its float32 self with all matrices dynamic, and 0.9993 this way; the file
    is 7 % larger. With `accuracy_level=4` those activations are in 8 bits too; floats would give 0.9995, but a single
    text would take a MiniLM six times as long. The other matrices have a scale a column: a MiniLM keeps 0.993 by it,
    all dynamic, and 0.89 with a scale a matrix. Their weights have seven bits (`reduce_range`), which costs 0.001: with
    eight a CPU with AVX2 but without VNNI overflows. The table of tokens, half of a small tower, is in 8 bits too.
    """
    onnx, _ = onnx_libraries()
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    model = onnx.load(source)
    shapes = {weight.name: list(weight.dims) for weight in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in shapes]
    narrowing = [node.name for node in products if shapes[node.input[1]][0] > shapes[node.input[1]][1]]
    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)  # both log their progress through the root logger
    try:
        if narrowing:
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
    finally:
        root.setLevel(level)
