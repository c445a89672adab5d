"""A model goes in; an ONNX file of its text tower and one of its vision tower, with unit embeddings, come out."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from ...hub.errors_clipscratch import ClipScratchError
from ...hub.losses_clipscratch import unit_length

OPSET = 20  # the first that has Gelu, one node where it was five
SIDES = ("text", "vision")
LARGEST = 2**31  # bytes of one protobuf message
EXAMPLE_TOKENS = 2  # any number above 1: lengths of 1 would be taken as fixed


class _TextTower(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        output = self.model.get_text_features(input_ids=input_ids, attention_mask=attention_mask, return_dict=True)
        return unit_length(output.pooler_output)


class _VisionTower(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        return unit_length(self.model.get_image_features(pixel_values=pixel_values, return_dict=True).pooler_output)


def file_name(side: str, precision: str) -> str:
    """
    >>> file_name("text", "fp32"), file_name("vision", "int8")
    ('text_model.onnx', 'vision_model_int8.onnx')
    """
    return f"{side}_model{'' if precision == 'fp32' else '_' + precision}.onnx"


def tower(model, side: str) -> nn.Module:
    """The module that one file is made of: `text` takes (input_ids, attention_mask), both (B, T) int64, `vision` takes
    (pixel_values,), (B, 3, H, W) float32. Gives (B, P) of unit length."""
    return (_TextTower if side == "text" else _VisionTower)(model)


def write_tower(model, side: str, image_size: tuple[int, int], path: Path) -> None:
    """Writes one tower in float32; batch and tokens may be of any size in it.

    Args:
        model: in float32, on the CPU, in `eval()`. Its attention is set to `eager`, which makes the smallest graph:
            that of `sdpa` has a third more nodes, which mend rows without any token.
        side: `text` or `vision`.
        image_size: height and width in pixels.
    Raises: ClipScratchError if the tower's weights do not fit into one file.
    """
    parts = (getattr(model, f"{side}_model"), model.text_projection if side == "text" else model.visual_projection)
    size = sum(weight.numel() * weight.element_size() for part in parts for weight in part.parameters())
    if size >= LARGEST:
        raise ClipScratchError(
            f"the {side} tower has {size / 1e9:.1f} GB of weights, and one ONNX file holds {LARGEST / 1e9:.1f} GB; "
            "export a smaller tower."
        )
    model.set_attn_implementation("eager")
    if side == "text":
        ids = torch.zeros(2, EXAMPLE_TOKENS, dtype=torch.int64)
        inputs, axes = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, {0: "batch", 1: "tokens"}
    else:
        inputs, axes = {"pixel_values": torch.zeros(2, 3, *image_size)}, {0: "batch"}
    with _quiet():
        torch.onnx.export(
            tower(model, side),
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # It warns of each operator of torchvision that is not there, and of what it deprecates in itself.
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
