"""Compare the numbers drawn of seeds, epochs and keys with published and independent values."""

import hashlib

import torch

from modeling_clipscratch.data.images.randomness import epoch_order, key_ids, sample_ids, uniform

KEYS = [f"row-{number}" for number in range(4000)]


def splitmix(state):
    """Steele et al. 2014, in Python's unbounded integers: the mix of one state, unsigned 64 bits."""
    state &= 2**64 - 1
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return state ^ (state >> 31)


def signed(number):
    return number - 2**64 if number >= 2**63 else number


def test_draws_of_sample_zero_are_the_published_splitmix64_sequence():
    # The generator's first outputs for seed 0 (its lowest 24 bits are taken here).
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    found = [uniform(torch.tensor([0]), draw).item() for draw in range(4)]
    assert found == [(number & 0xFFFFFF) / 2**24 for number in published]


def test_sample_ids_and_draws_are_those_of_unbounded_integers():
    golden = 0x9E3779B97F4A7C15
    for key, seed, epoch in (("digits-0000", 0, 0), ("", 1, 0), ("a key with ü", 12345, 678), ("x", 2**40, 2**20)):
        number = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
        sample = splitmix(splitmix(number + seed * golden) + epoch * golden)
        ids = key_ids([key])
        assert ids.tolist() == [signed(number)]
        samples = sample_ids(ids, seed=seed, epoch=epoch)
        assert samples.tolist() == [signed(sample)]
        for draw in (0, 7, 101):
            expected = (splitmix(sample + (draw + 1) * golden) & 0xFFFFFF) / 2**24
            assert uniform(samples, draw).tolist() == [expected]


def test_numbers_are_pinned_so_that_runs_can_be_repeated_by_later_versions():
    samples = sample_ids(key_ids(["digits-0000", "digits-0001", ""]), seed=7, epoch=3)
    assert samples.tolist() == [121157314189203605, 5975334176811511455, -6961595004391123398]
    assert uniform(samples, 0).tolist() == [0.15374785661697388, 0.43884360790252686, 0.7942259311676025]
    assert epoch_order(10, seed=0, epoch=1) == [5, 6, 1, 2, 0, 8, 9, 3, 7, 4]
