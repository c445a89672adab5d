"""The weights of each step go in; their exponential moving average comes out, and travels with checkpoints."""

import contextlib
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from ...hub.errors_clipscratch import ClipScratchError

FILE = "average.safetensors"


class WeightAverage:
    """
    Args:
        model: unwrapped, before its first step; under FSDP the average is as sharded as the weights. Buffers (those
            of batch norm) stay the model's own.
        decay: weight of the past, in (0, 1); in the first steps less, (1 + step) / (10 + step), so that the first
            weights are forgotten.

    Source: Polyak & Juditsky 1992; the warm-up is that of TensorFlow's `ExponentialMovingAverage`.
    """

    def __init__(self, model, decay: float):
        self.model, self.decay = model, decay
        self.weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.averages = {name: p.detach().clone() for name, p in self.weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes the weights after `step` steps in."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.averages.values()), list(self.weights.values()), 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the model's weights with the average, in place; a second call exchanges them back."""
        for name, average in self.averages.items():
            weight = self.weights[name].detach().clone()
            self.weights[name].copy_(average)
            average.copy_(weight)
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # else it goes on with the copy that it had gathered

    @contextlib.contextmanager
    def in_place(self):
        """The model with the average as its weights, for an evaluation."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def save(self, folder: Path, *, writes: bool) -> None:
        """Writes the average beside a checkpoint's weights. All processes gather, one writes."""
        whole = {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in self.averages.items()}
        if writes:
            save_file({name: tensor.cpu().contiguous() for name, tensor in whole.items()}, folder / FILE)

    @torch.no_grad()
    def load(self, folder: str | Path) -> None:
        """Raises: ClipScratchError if the checkpoint holds no average, or one of other weights."""
        found = read_average(folder)
        if found.keys() != self.averages.keys():
            raise ClipScratchError(f"{folder} holds an average of other weights than this run trains; begin a new run.")
        for name, average in self.averages.items():
            tensor = found[name].to(average.device)
            sharded = isinstance(average, DTensor)
            average.copy_(distribute_tensor(tensor, average.device_mesh, average.placements) if sharded else tensor)


def read_average(folder: str | Path) -> dict[str, torch.Tensor]:
    """Raises: ClipScratchError if the checkpoint holds no average."""
    path = Path(folder) / FILE
    if not path.is_file():
        raise ClipScratchError(f"{folder} holds no average of the weights; it was written without ema_decay.")
    return load_file(path)
