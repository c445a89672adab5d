"""Stop a run whose loss or weights are no longer finite, before it is logged, evaluated or saved."""

import math
from collections.abc import Iterable

import torch
from torch.distributed.tensor import DTensor

from ...hub.errors_clipscratch import ClipScratchError


class DivergedError(ClipScratchError):
    """A loss or a weight of the run is NaN or infinite."""


class LossWatch:
    """Keep the losses since the last check on the device, so that no step waits for it.

    >>> watch = LossWatch()
    >>> watch.add(torch.tensor(1.0))
    >>> watch.check(step=1)
    >>> watch.add(torch.tensor(torch.nan))
    >>> watch.check(step=2)
    Traceback (most recent call last):
        ...
    modeling_clipscratch.training.optimization.divergence.DivergedError: the loss is nan at step 2
    """

    def __init__(self):
        self._losses = []

    def add(self, loss: torch.Tensor) -> None:
        """Keep the loss of a step, a scalar without gradient."""
        self._losses.append(loss)

    def check(self, step: int) -> None:
        """Read the losses since the last check.

        Args:
            step: number of the last step, counted from 1.
        Raises: DivergedError that names the first step whose loss is not finite.
        """
        losses, self._losses = self._losses, []
        values = torch.stack(losses).tolist() if losses else []
        for number, value in enumerate(values, start=step - len(values) + 1):
            if not math.isfinite(value):
                raise DivergedError(f"the loss is {value} at step {number}")


@torch.no_grad()
def check_weights(weights: Iterable[torch.Tensor], step: int) -> None:
    """Raise DivergedError if a tensor holds a value that is not finite.

    Args:
        weights: parameters, or what is saved beside them; of sharded ones this process's part is read.
        step: number of the last step.
    """
    local = [weight.to_local() if isinstance(weight, DTensor) else weight for weight in weights]
    local = [weight for weight in local if weight.numel()]
    if local and not torch.stack(torch._foreach_norm(local, torch.inf)).isfinite().all():
        raise DivergedError(f"the weights are not finite after step {step}")
