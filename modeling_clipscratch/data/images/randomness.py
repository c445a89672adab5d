"""Draw random numbers that depend on a seed, an epoch and the key of a row alone.

Each draw is a hash (splitmix64, Steele et al. 2014) without a state, so neither the order of rows nor the number of
workers nor a resume changes it.
"""

import hashlib

import numpy as np
import torch

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64  # as signed 64-bit numbers: torch multiplies them modulo 2 ** 64
_MIX_2 = 0x94D049BB133111EB - 2**64


def key_ids(keys) -> torch.Tensor:
    """Return (N,) int64 stable hashes of (N,) names."""
    hashes = b"".join(hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8).digest() for key in keys)
    return torch.from_numpy(np.frombuffer(hashes, dtype="<i8").astype(np.int64))


def sample_ids(ids: torch.Tensor, *, seed: int, epoch: int | torch.Tensor) -> torch.Tensor:
    """Return (N,) int64 ids of samples, a sample being a row in an epoch of a seed, from (N,) `key_ids`."""
    return _scramble(_scramble(ids + _signed(seed * _GOLDEN)) + torch.as_tensor(epoch) * _signed(_GOLDEN))


def uniform(samples: torch.Tensor, draw: int) -> torch.Tensor:
    """Return draw number `draw` of each sample: (B,) float32 in [0, 1)."""
    return (_scramble(samples + _signed((draw + 1) * _GOLDEN)) & 0xFFFFFF).float() / 2**24


def epoch_order(count: int, *, seed: int, epoch: int) -> list[int]:
    """Return the rows 0 to count - 1 in the order of one epoch."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(count, generator=generator).tolist()


def _signed(number: int) -> int:
    """Return any integer modulo 2 ** 64, in the range of int64."""
    return (number + 2**63) % 2**64 - 2**63


def _scramble(x: torch.Tensor) -> torch.Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:  # logical: torch's own keeps the sign
    return (x >> bits) & (2 ** (64 - bits) - 1)
