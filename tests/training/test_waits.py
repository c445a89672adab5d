"""Check that the host never waits for a GPU between two log lines, in a run with every option of a step."""

import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from modeling_clipscratch.training.trainer import ClipScratchTrainer

aten = torch.ops.aten
# A number of the device that the host must know: `item()`, `bool(tensor)`, results whose size depends on values.
ASKS = {aten._local_scalar_dense, aten.nonzero, aten._unique2, aten.unique_dim, aten.masked_select, aten.equal}
LISTS = {aten.lift_fresh}  # a list that becomes a tensor of the device; batches, made on the host, may have them

SWITCHES = {
    "random_erasing": 0.5, "horizontal_flip": 0.5, "random_crop_min_area": 0.7,
    "patch_dropout": 0.25, "ema_decay": 0.9, "muon_learning_rate": 0.02,
}  # fmt: skip


SHORT = {
    "per_device_train_batch_size": 200, "max_steps": 5, "logging_steps": 5, "eval_strategy": "no",
    "save_strategy": "no", "test_split": "none",
    "freeze_text": True,  # of a trained text tower, transformers asks whether a mask is needed
}  # fmt: skip


class Forbid(TorchDispatchMode):
    def __init__(self, packets):
        super().__init__()
        self.packets = packets

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket not in self.packets, f"{func} makes the host wait for the device"
        return func(*args, **(kwargs or {}))


@pytest.fixture
def watched(monkeypatch):
    """Steps 2 to 4 of an epoch's 6, with all that lies between them: to ask the device for a number is an error."""
    step, between, seen = ClipScratchTrainer.training_step, contextlib.ExitStack(), []

    def training_step(self, *args, **kwargs):
        number = self.state.global_step
        if number == 1:
            between.enter_context(Forbid(ASKS))
        if number == 4:
            between.close()
        if not 1 <= number < 4:
            return step(self, *args, **kwargs)
        seen.append(number)
        with Forbid(ASKS | LISTS), pytest.MonkeyPatch.context() as patch:
            for name in ("tolist", "cpu", "numpy"):  # copies, which on a CPU no operator shows
                patch.setattr(torch.Tensor, name, lambda *args, name=name: pytest.fail(f"{name}() makes the host wait"))
            return step(self, *args, **kwargs)

    monkeypatch.setattr(ClipScratchTrainer, "training_step", training_step)
    with between:
        yield seen


@pytest.mark.parametrize(
    ("loss", "chunk"),
    [("softmax", "auto"), ("sigmoid", "64"), pytest.param("diagonal", "auto", marks=pytest.mark.slow)],
)
def test_no_step_between_log_lines_asks_the_device_for_a_number(run_recipe, tmp_path, watched, loss, chunk):
    run_recipe(tmp_path, loss=loss, encode_chunk_size=chunk, **SHORT, **SWITCHES)
    assert watched == [1, 2, 3]


def test_the_watch_sees_a_step_that_asks(run_recipe, tmp_path, watched):
    """Else the test above could not fail: transformers' filter of losses that are no number asks at each step."""
    with pytest.raises(AssertionError, match="_local_scalar_dense"):
        run_recipe(tmp_path, logging_nan_inf_filter=True, **SHORT)
