"""Encode a batch in chunks, and encode each chunk again in the backward pass, so that one chunk is in memory."""

import torch
from torch.utils.checkpoint import checkpoint


@torch.compiler.disable(recursive=False)  # the towers are compiled; this loop and its replayed draws cannot be
def in_chunks(encode, inputs, chunk_size, device="cpu"):
    """Encode a batch with the activations of one chunk in memory at a time, with the gradients of the whole.

    1. Each chunk is encoded. Its activations are dropped, its inputs are kept.
    2. In the backward pass, when the gradients of all features are known, each chunk is encoded again with the same
       random draws (dropout, dropped patches). Its activations are used and dropped.

    Args:
        encode: function of a chunk's inputs -> features (n, P).
        inputs: {name: (B, ...)}, tensors or whatever returns a part when it is sliced; `None` stays `None`.
        chunk_size: rows at once; the last chunk may be smaller.
        device: where `encode` draws random numbers.

    Source: Gao et al. 2021, arXiv 2101.06983, which caches embeddings in two passes; here autograd keeps the order.
    """

    def rows_from(start, _=None):  # sliced here, so that the inputs of a chunk are made again rather than kept
        return encode(**{name: None if t is None else t[start : start + chunk_size] for name, t in inputs.items()})

    starts = range(0, next(len(t) for t in inputs.values() if t is not None), chunk_size)
    if not torch.is_grad_enabled():
        return torch.cat([rows_from(start) for start in starts])
    # `checkpoint` itself replays torch's generators: those of the CPU and of the devices of its tensor arguments.
    there, features = torch.empty(0, device=device), []
    for start in starts:  # no comprehension: it has a frame of its own, which torch.compile would compile
        features.append(checkpoint(rows_from, start, there, use_reentrant=False))
    return torch.cat(features)
