"""An ONNX file of a tower in float32 goes in; the same in half precision or in 8 bits comes out."""

import logging
from pathlib import Path

from ...hub.errors_clipscratch import ClipScratchError

PRECISIONS = ("fp32", "fp16", "int8")
BLOCK = 32  # weights of one scale


def onnx_libraries():
    """(onnx, onnxruntime); raises ClipScratchError with the command that installs them."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  (torch's exporter is written in it)
    except ImportError as error:
        raise ClipScratchError(
            f"an export needs {error.name}, which is not installed: pip install 'clipscratch[export]'"
        ) from error
    return onnx, onnxruntime


def write_precision(source: Path, precision: str, path: Path) -> None:
    """
    Args:
        source: file in float32.
        precision: `fp16` or `int8`.
        path: of the new file; its inputs and outputs are those of the source, of the same types.
    """
    (_write_half if precision == "fp16" else _write_int8)(source, path)


def _write_half(source, path):
    onnx, _ = onnx_libraries()
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load(source), keep_io_types=True)
    # In half precision a norm is off by up to 5e-4; so unit length is made once more, of the float32 output.
    name = model.graph.output[0].name
    last = next(node for node in model.graph.node if name in node.output)
    last.output[0] = f"{name}_half"
    model.graph.node.append(onnx.helper.make_node("LpNormalization", [f"{name}_half"], [name], axis=-1, p=2))
    onnx.save(model, path)


def _write_int8(source, path):
    """Dynamic quantisation, but with a scale for each 32 numbers in the matrices that narrow.

    One scale serves a whole activation that is quantised dynamically, and what comes out of an MLP's widening half has
    values far from all others. So a ViT-tiny keeps a mean cosine of 0.91 to its float32 self with all matrices dynamic,
    and 0.9993 so; the file is 7 % larger. `accuracy_level=4`: those activations are in 8 bits too; as floats they would
    give 0.9995, but a single text would take a MiniLM six times as long. The other matrices have a scale a column: all
    dynamic, a MiniLM keeps 0.993 by it, 0.89 with a scale a matrix. Their weights have seven bits (`reduce_range`),
    since with eight a CPU with AVX2 but without VNNI overflows, and the file may go to any CPU; that costs 0.001. The
    table of tokens, half of a small tower, is in 8 bits too.
    """
    onnx, _ = onnx_libraries()
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    model = onnx.load(source)
    shapes = {weight.name: list(weight.dims) for weight in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in shapes]
    narrowing = [node.name for node in products if shapes[node.input[1]][0] > shapes[node.input[1]][1]]
    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)  # both speak through the root logger: of what they do, and of shapes to infer first
    try:
        if narrowing:
            blocks = MatMulNBitsQuantizer(
                model, bits=8, block_size=BLOCK, is_symmetric=True, accuracy_level=4, nodes_to_include=narrowing
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
