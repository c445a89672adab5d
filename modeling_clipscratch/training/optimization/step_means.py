"""Statistics of each step go in; their means since the last log line come out."""

import torch


class StepMeans:
    """Sums that stay on the device: only a log line waits for it.

    >>> means = StepMeans()
    >>> means.add({"accuracy": torch.tensor(0.5)})
    >>> means.add({"accuracy": torch.tensor(1.0)})
    >>> means.take(), means.take()
    ({'accuracy': 0.75}, {})
    """

    def __init__(self):
        self._sums, self._count = {}, 0

    def add(self, statistics: dict[str, torch.Tensor]) -> None:
        """Takes a step's scalars in."""
        for name, value in statistics.items():
            self._sums[name] = self._sums.get(name, 0) + value
        self._count += 1

    def take(self) -> dict[str, float]:
        """The means, which begin anew; nothing if no step came in."""
        means = {name: float(total) / self._count for name, total in self._sums.items()}
        self._sums, self._count = {}, 0
        return means
