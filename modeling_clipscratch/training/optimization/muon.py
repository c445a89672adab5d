"""Gradients of matrices go in; orthogonal steps (Muon) come out, and AdamW's for all else, as one optimizer."""

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

MOMENTUM = 0.95
# Of a polynomial whose slope at 0 is large: five rounds bring every singular value into 0.7 to 1.2.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
# Five rounds, by how many share a Gram matrix (rows x rows): for wide matrices less work. Three would not do: bfloat16
# puts its smallest eigenvalues below 0, each round takes them further off, and one large direction makes it explode.
_ROUNDS, _WIDE_ROUNDS = (1, 1, 1, 1, 1), (2, 2, 1)


class MuonAdamW(torch.optim.AdamW):
    """torch's `AdamW`, but for groups with `muon=True`, whose matrices take the steps of `torch.optim.Muon`.

    One optimizer rather than two, so that it has one schedule, one state to save and one gradient norm to clip.
    Differs from `torch.optim.Muon` in speed only: matrices of one shape, or of one shape on its side, are
    orthogonalised together, and wide ones with fewer operations.

    Args:
        groups: as torch's optimizers take them; `muon` is False where it is left out.
        dtype: of the orthogonalisation; bfloat16 is enough where the device has units for it.
        settings: AdamW's.
    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; the step is lr max(1, rows / columns) ** 0.5.

    >>> weight = torch.nn.Parameter(torch.zeros(2, 2))
    >>> optimizer = MuonAdamW([{"params": [weight], "muon": True}], dtype=torch.float32, lr=0.1, weight_decay=0.0)
    >>> weight.grad = torch.tensor([[3.0, 0.0], [0.0, 0.01]])  # however unlike the directions, the step is alike
    >>> optimizer.step()
    >>> bool((weight.diagonal() < -0.06).all())
    True
    """

    def __init__(self, groups, *, dtype: torch.dtype, **settings):
        super().__init__([{"muon": False, **group} for group in groups], **settings)
        self._dtype = dtype
        self._step_supports_amp_scaling = False  # AdamW's fused kernel takes scaled gradients, the matrices' do not

    @torch.no_grad()
    def step(self, closure=None):
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["muon"]]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["muon"]:
                self._step_matrices(group)
        return loss

    def _step_matrices(self, group):
        weights = [weight for weight in group["params"] if weight.grad is not None]
        if not weights:
            return
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
    """The nearest (semi-)orthogonal matrix of each, nearly: singular values of 0.7 to 1.2.

    Args:
        matrices: each (rows, columns), of any shapes and one dtype; sharded ones are gathered, and sharded again.
        dtype: of the arithmetic.

    >>> wide = torch.tensor([[5.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    >>> nearly = orthogonalize([wide], dtype=torch.float32)[0]
    >>> bool(((torch.linalg.svdvals(nearly) > 0.6) & (torch.linalg.svdvals(nearly) < 1.3)).all())
    True
    """
    flat, by_shape = {}, {}
    for place, matrix in enumerate(matrices):
        whole = matrix.full_tensor() if isinstance(matrix, DTensor) else matrix
        wide = whole if whole.shape[0] <= whole.shape[1] else whole.t()
        by_shape.setdefault(wide.shape, []).append((place, wide.to(dtype), wide is not whole))
    for members in by_shape.values():
        stack = _orthogonalize(torch.stack([wide for _, wide, _ in members])).to(matrices[0].dtype)
        for (place, _, turned), result in zip(members, stack.unbind(), strict=True):
            flat[place] = result.t() if turned else result
    return [_as_sharded(flat[place], matrix) for place, matrix in enumerate(matrices)]


def _orthogonalize(stack):
    """(n, rows, columns), rows <= columns."""
    a, b, c = _COEFFICIENTS
    stack = stack / stack.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for rounds in _WIDE_ROUNDS if stack.shape[2] >= 3 * stack.shape[1] else _ROUNDS:
        gram = stack @ stack.mT
        change = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        if rounds == 1:
            stack = torch.baddbmm(stack, change, stack, beta=a)
        else:
            for _ in range(2):  # from the left and from the right, but both commute: the Gram matrix of the next round
                gram = torch.baddbmm(gram, change, gram, beta=a)
            after = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
            change.diagonal(dim1=1, dim2=2).add_(a)
            stack = torch.baddbmm(change, after, change, beta=a) @ stack
    return stack


def _as_sharded(whole, like):
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)  # all processes have it
