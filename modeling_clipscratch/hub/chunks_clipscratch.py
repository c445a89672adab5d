"""A batch goes in, a chunk at a time; its features come out, and the backward pass makes anew what a chunk held."""

import contextlib
import random

import torch
from torch.utils.checkpoint import checkpoint

from .heads_clipscratch import with_features


def encode_side(encode, inputs, chunk_size, recorded, **options):
    """One side's features, in one go or in chunks.

    Args:
        encode: the model's `get_text_features` or `get_image_features`.
        inputs: as `in_chunks` takes them.
        chunk_size: rows at once, or `None` for all.
        recorded: options of `encode` for more outputs, which chunks do not have; `options` are the others.
    Returns: what `encode` gives, of chunks its `pooler_output` only; `None` where there is nothing to encode.
    """
    if all(value is None for name, value in inputs.items() if name != "attention_mask"):
        return None
    if chunk_size is None:
        return encode(**inputs, return_dict=True, **recorded, **options)

    def features(**chunk):
        return encode(**chunk, return_dict=True, **options).pooler_output

    return with_features(None, in_chunks(features, inputs, chunk_size, device=encode.__self__.device))


@torch.compiler.disable(recursive=False)  # the towers inside are compiled; this loop and its replayed draws cannot be
def in_chunks(encode, inputs, chunk_size, device="cpu"):
    """The features of a batch with the activations of one chunk in memory at a time, to the same gradients.

    1. Each chunk is encoded; its activations are dropped, its inputs kept.
    2. In the backward pass, when the gradients of all features are known, each chunk is encoded again, with the draws
       (dropout, dropped patches) that it had, and its activations are used and dropped.

    Args:
        encode: function of a chunk's inputs -> features (n, P).
        inputs: {name: (B, ...)}, tensors or whatever gives a part when sliced; names with `None` stay so.
        chunk_size: rows at once; the last chunk may be smaller.
        device: where `encode` draws.
    Returns: (B, P).
    Source: Gao et al. 2021, arXiv 2101.06983, which caches embeddings in two passes; here autograd keeps the order.
    """

    def rows_from(start, _=None):  # sliced here, so that a chunk's own inputs too are made again rather than kept
        return encode(**{name: None if t is None else t[start : start + chunk_size] for name, t in inputs.items()})

    starts = range(0, next(len(t) for t in inputs.values() if t is not None), chunk_size)
    if not torch.is_grad_enabled():
        return torch.cat([rows_from(start) for start in starts])
    # `checkpoint` itself replays torch's generators, of the CPU and of the devices of tensors that it is given.
    again, there = {"use_reentrant": False, "context_fn": _same_python_draws}, torch.empty(0, device=device)
    features = []
    for start in starts:  # no comprehension: that is a frame of its own, which torch.compile would take for itself
        features.append(checkpoint(rows_from, start, there, **again))
    return torch.cat(features)


def _same_python_draws():
    before = random.getstate()

    @contextlib.contextmanager
    def again():
        after = random.getstate()
        random.setstate(before)
        try:
            yield
        finally:
            random.setstate(after)

    return contextlib.nullcontext(), again()
