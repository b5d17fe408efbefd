from __future__ import annotations

import itertools

import torch

from fedguard.randomness import SERVER, generator, numpy_generator, stream_seed


def test_streams_differ_in_every_part_of_their_key():
    keys = itertools.product((0, 1), (0, 1), (SERVER, 0, 1), ("batches", "attack"))
    seeds = [stream_seed(*key) for key in keys]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_stream_repeats_and_touches_no_global_state():
    before = torch.get_rng_state()
    first = torch.rand(5, generator=generator(3, 1, 2, "x"))
    second = torch.rand(5, generator=generator(3, 1, 2, "x"))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())
    assert numpy_generator(3, 1, 2, "x").random() == numpy_generator(3, 1, 2, "x").random()
