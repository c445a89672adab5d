"""Keep the values of each step on the device until they are logged or checked, so that no step waits for them."""

from collections.abc import Iterable

import torch
from torch.distributed.tensor import DTensor

from ...utils.errors import ClipScratchError


class DivergedError(ClipScratchError):
    """A loss or a weight of the run is NaN or infinite."""


class StepMeans:
    """Average the statistics of steps between two log lines."""

    def __init__(self):
        self._sums, self._count = {}, 0

    def add(self, statistics: dict[str, torch.Tensor]) -> None:
        for name, value in statistics.items():
            self._sums[name] = self._sums.get(name, 0) + value
        self._count += 1

    def take(self) -> dict[str, float]:
        means = {name: float(total) / self._count for name, total in self._sums.items()}
        self._sums, self._count = {}, 0
        return means


@torch.no_grad()
def are_finite(weights: Iterable[torch.Tensor]) -> bool:
    """Return whether no weight is NaN or infinite; of sharded weights this process's part is checked."""
    local = [weight.to_local() if isinstance(weight, DTensor) else weight for weight in weights]
    local = [weight for weight in local if weight.numel()]
    return not local or bool(torch.stack(torch._foreach_norm(local, torch.inf)).isfinite().all())
