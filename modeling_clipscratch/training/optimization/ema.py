"""Keep an exponential moving average of the trained weights, in memory and in checkpoints."""

import contextlib
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


class ModelEma:
    """Exponential moving average of an unwrapped model's trained weights.

    Source: Polyak & Juditsky 1992; the warm-up of the decay is that of TensorFlow's `ExponentialMovingAverage`.
    """

    def __init__(self, model, decay: float):
        self.decay = decay
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.weights = {name: p.detach().clone() for name, p in self.trained.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.weights.values()), list(self.trained.values()), 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the model's weights with the average, in place; a second call exchanges them back."""
        for name, average in self.weights.items():
            weight = self.trained[name].detach().clone()
            self.trained[name].copy_(average)
            average.copy_(weight)

    @contextlib.contextmanager
    def in_place(self):
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def save(self, folder: Path) -> None:
        weights = {name: tensor.cpu().contiguous() for name, tensor in self.weights.items()}
        save_file(weights, folder / "ema.safetensors")

    @torch.no_grad()
    def load(self, folder: str | Path) -> None:
        saved = load_file(Path(folder) / "ema.safetensors")
        for name, average in self.weights.items():
            average.copy_(saved[name])
