"""Train matrices with Muon and all other weights with AdamW, in one optimizer."""

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

MOMENTUM = 0.95
# A polynomial whose slope at 0 is large; five rounds bring every singular value into 0.7 to 1.2.
_COEFFICIENTS, _ROUNDS = (3.4445, -4.7750, 2.0315), 5


class MuonAdamW(torch.optim.AdamW):
    """torch's `AdamW`, except for groups with `muon=True`, whose matrices take the steps of `torch.optim.Muon`.

    It is one optimizer rather than two, so that it has one schedule, one state to save and one gradient norm to clip.
    Matrices of one shape, or of one shape transposed, are orthogonalised together, which `torch.optim.Muon` does not.

    Args:
        groups: as torch's optimizers take them; `muon` is False by default.
        dtype: of the orthogonalisation; bfloat16 is enough where the device has units for it.
        settings: arguments of `AdamW`.

    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; the step is lr max(1, rows / columns) ** 0.5.

    >>> weight = torch.nn.Parameter(torch.zeros(2, 2))
    >>> optimizer = MuonAdamW([{"params": [weight], "muon": True}], dtype=torch.float32, lr=0.1, weight_decay=0.0)
    >>> weight.grad = torch.tensor([[3.0, 0.0], [0.0, 0.01]])
    >>> optimizer.step()  # about lr in each direction, whatever the gradient there
    >>> bool((weight.diagonal() < -0.06).all())
    True
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
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if group["muon"] and weights:
                self._step_matrices(group, weights)
        return loss

    def _step_matrices(self, group, weights):
        gradients = [weight.grad for weight in weights]
        for weight in weights:
            if not self.state[weight]:
                # AdamW looks for a step in every state that it loads.
                self.state[weight] = {"step": torch.tensor(0.0), "momentum_buffer": torch.zeros_like(weight)}
        momenta = [self.state[weight]["momentum_buffer"] for weight in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        updates = orthogonalize(torch._foreach_lerp(gradients, momenta, MOMENTUM), dtype=self._dtype)
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        for weight, update in zip(weights, updates, strict=True):
            weight.add_(update, alpha=-group["lr"] * max(1, weight.shape[0] / weight.shape[1]) ** 0.5)


def orthogonalize(matrices: list[torch.Tensor], *, dtype: torch.dtype) -> list[torch.Tensor]:
    """Approximate the nearest (semi-)orthogonal matrix of each, with singular values of 0.7 to 1.2.

    Args:
        matrices: each (rows, columns), of any shapes and one dtype; sharded ones are gathered, and sharded again.
        dtype: of the arithmetic.

    >>> wide = torch.tensor([[5.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    >>> nearly = orthogonalize([wide], dtype=torch.float32)[0]
    >>> bool(((torch.linalg.svdvals(nearly) > 0.6) & (torch.linalg.svdvals(nearly) < 1.3)).all())
    True
    """
    results, by_shape = {}, {}
    for place, matrix in enumerate(matrices):
        whole = matrix.full_tensor() if isinstance(matrix, DTensor) else matrix
        is_tall = whole.shape[0] > whole.shape[1]
        wide = whole.t() if is_tall else whole
        by_shape.setdefault(wide.shape, []).append((place, wide.to(dtype), is_tall))
    a, b, c = _COEFFICIENTS
    for members in by_shape.values():
        stack = torch.stack([wide for _, wide, _ in members])  # (n, rows, columns), rows <= columns
        stack = stack / stack.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
        for _ in range(_ROUNDS):
            gram = stack @ stack.mT
            stack = torch.baddbmm(stack, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), stack, beta=a)
        for (place, _, is_tall), result in zip(members, stack.to(matrices[0].dtype).unbind(), strict=True):
            results[place] = result.t() if is_tall else result
    return [_shard_like(matrix, results[place]) for place, matrix in enumerate(matrices)]


def _shard_like(matrix, whole):
    if not isinstance(matrix, DTensor):
        return whole
    return distribute_tensor(whole, matrix.device_mesh, matrix.placements, src_data_rank=None)  # all processes have it
