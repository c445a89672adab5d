"""Check the arithmetic that is chosen for options and devices, and how processes were launched."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from modeling_clipscratch.training.optimization.device import check_processes, choose_precision
from modeling_clipscratch.training.recipe import arguments
from modeling_clipscratch.training.recipe.arguments import ClipScratchTrainingArguments


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        ({"avx2": True}, "fp32"),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, "fp32"),
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
    ],
)
def test_precision_on_cpus_follows_their_instructions(monkeypatch, instructions, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    assert choose_precision(use_cpu=True) == expected


@pytest.mark.parametrize(
    ("best", "options", "expected"),
    [
        ("bf16", {}, "bf16"),
        ("bf16", {"bf16": False}, "fp32"),
        ("fp16", {}, "fp16"),
        ("fp32", {"bf16": True}, "bf16"),
        ("fp32", {"bf16": False, "fp16": True}, "fp16"),
    ],
)
def test_precision_is_that_of_the_device_unless_a_flag_is_given(monkeypatch, best, options, expected):
    monkeypatch.setattr(arguments, "choose_precision", lambda use_cpu: best)
    args = ClipScratchTrainingArguments(**options)
    assert (args.precision, args.bf16, args.fp16) == (expected, expected == "bf16", expected == "fp16")
    assert dataclasses.replace(args, seed=1).precision == expected


def test_one_process_with_several_gpus_is_refused():
    with pytest.raises(ValueError, match="one process sees 2 GPUs"):
        check_processes(SimpleNamespace(world_size=1, n_gpu=2))
