"""Train matrices with Muon and all other weights with AdamW, in one optimizer."""

import torch

MOMENTUM = 0.95
# A polynomial whose slope at 0 is large; five rounds bring every singular value into 0.7 to 1.2.
_COEFFICIENTS, _ROUNDS = (3.4445, -4.7750, 2.0315), 5


class MuonAdamW(torch.optim.AdamW):
    """torch's `AdamW`, except for groups with `muon=True`, whose matrices take the steps of `torch.optim.Muon`.

    One optimizer has one schedule, one state to save and one gradient norm to clip.

    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; the step is lr max(1, rows / columns) ** 0.5.
    """

    def __init__(self, groups, *, dtype: torch.dtype, **settings):
        super().__init__([{"muon": False, **group} for group in groups], **settings)
        self._dtype = dtype
        # Read by torch's GradScaler: AdamW's fused kernel takes scaled gradients, the steps of matrices do not.
        self._step_supports_amp_scaling = False

    @torch.no_grad()
    def step(self, closure=None):
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["muon"]]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            for weight in group["params"]:
                if group["muon"] and weight.grad is not None:
                    self._step_matrix(weight, group["lr"], group["weight_decay"])
        return loss

    def _step_matrix(self, weight, rate, decay):
        if not self.state[weight]:  # AdamW looks for a step in every state that it loads
            self.state[weight] = {"step": torch.tensor(0.0), "momentum_buffer": torch.zeros_like(weight)}
        momentum = self.state[weight]["momentum_buffer"].lerp_(weight.grad, 1 - MOMENTUM)
        update = orthogonalize(weight.grad.lerp(momentum, MOMENTUM), dtype=self._dtype)
        weight.mul_(1 - rate * decay).add_(update, alpha=-rate * max(1, weight.shape[0] / weight.shape[1]) ** 0.5)


def orthogonalize(matrix: torch.Tensor, *, dtype: torch.dtype) -> torch.Tensor:
    """Approximate the nearest (semi-)orthogonal matrix, with singular values of 0.7 to 1.2, computed in `dtype`."""
    is_tall = matrix.shape[0] > matrix.shape[1]
    wide = (matrix.t() if is_tall else matrix).to(dtype)
    wide = wide / wide.norm().clamp(min=1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ROUNDS):
        gram = wide @ wide.t()
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return (wide.t() if is_tall else wide).to(matrix.dtype)
