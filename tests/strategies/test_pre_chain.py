from __future__ import annotations

import numpy as np
import pytest
import torch
from references import random_rows, relative_error, updates_of

from fedguard.errors import ConfigurationError
from fedguard.strategies.krum import Krum
from fedguard.strategies.median import Median
from fedguard.strategies.pre_aggregation import (
    AdaptiveClipping,
    Bucketing,
    Chain,
    Clipping,
    NearestNeighbourMixing,
    chain,
)
from fedguard.testing import check_strategy, honest_updates


def mixed64(rows, share: float) -> np.ndarray:
    """Nearest neighbour mixing, by its definition."""
    wide = np.asarray(rows, dtype=np.float64)
    wanted = len(wide) - int(np.ceil(share * len(wide) - 1e-9))
    distances = np.linalg.norm(wide[:, None] - wide[None], axis=2)
    return np.stack([wide[np.argsort(row)[:wanted]].mean(axis=0) for row in distances])


def clipped64(rows, bound: float) -> np.ndarray:
    wide = np.asarray(rows, dtype=np.float64)
    return wide * np.minimum(1.0, bound / np.linalg.norm(wide, axis=1))[:, None]


def test_each_part_sees_what_the_one_before_it_made():
    rows = random_rows(9, 40, seed=1)
    rows[:2] *= 30.0
    clip_first = chain([Clipping(max_norm=0.5), NearestNeighbourMixing(assumed_malicious=0.2)])
    mix_first = chain([NearestNeighbourMixing(assumed_malicious=0.2), Clipping(max_norm=0.5)])
    one = mixed64(clipped64(rows, 0.5), 0.2)
    two = clipped64(mixed64(rows, 0.2), 0.5)
    assert relative_error(clip_first(updates_of(rows)).deltas, one) < 1e-5
    assert relative_error(mix_first(updates_of(rows)).deltas, two) < 1e-5
    assert relative_error(one, two) > 0.01


def test_the_coefficients_are_the_product_of_the_parts():
    rows = random_rows(10, 20, seed=2)
    updates = updates_of(rows)
    parts = [Clipping(max_norm=0.3), Bucketing(seed=3), NearestNeighbourMixing()]
    matrix = chain(parts).matrix(updates).numpy()
    assert matrix.shape == (5, 10)
    assert relative_error(chain(parts)(updates).deltas, matrix @ rows.astype(np.float64)) < 1e-5


def test_weights_lead_back_to_clients_through_every_part():
    rows = random_rows(18, 30, seed=4)
    rows[0] += 20.0
    updates = updates_of(rows)
    rule = Krum(assumed_malicious=0.2)
    first, second = Bucketing(bucket_size=2, seed=5), Bucketing(bucket_size=3, seed=6)
    rule.pre = chain([first, second])
    verdict = rule.decide(updates)
    # Three buckets of three buckets of two clients; the two without client 0 tie and are averaged.
    assert sorted(verdict.weights.numpy().round(6)) == [0.0] * 6 + [round(1 / 12, 6)] * 12
    assert float(verdict.weights[0]) == 0.0
    assert relative_error(verdict.delta, verdict.weights.numpy() @ rows) < 1e-5
    assert set(verdict.reasons) == {row for row in range(18) if float(verdict.weights[row]) == 0.0}


def test_clipping_does_not_take_weight_from_a_client_in_a_chain():
    rows = np.ones((4, 5), dtype=np.float32)
    rows[3] = 1000.0
    rule = Median()
    rule.pre = chain([Clipping(max_norm=1.0), NearestNeighbourMixing(assumed_malicious=0.0)])
    weights = rule.decide(updates_of(rows)).weights
    torch.testing.assert_close(weights, torch.full((4,), 0.25, dtype=torch.float64))


def test_buffers_are_medians_at_every_step_and_never_scaled():
    updates = honest_updates(9, seed=2)
    first = updates.layout.num_trainable
    updates.deltas[0, first:] = 1e6
    seen = chain([Clipping(max_norm=0.1), NearestNeighbourMixing()])(updates)
    honest = updates.deltas[1:, first:]
    assert float(seen.deltas[:, first:].abs().max()) <= float(honest.abs().max())
    assert torch.equal(Clipping(max_norm=0.1)(updates).deltas[:, first:], updates.deltas[:, first:])


def test_a_chain_of_one_is_that_part_and_a_chain_of_none_an_error():
    part = AdaptiveClipping()
    assert chain([part]) is part
    with pytest.raises(ConfigurationError, match="at least one"):
        chain([])


def test_chains_within_chains_are_one_chain():
    inner = chain([Clipping(), Bucketing()])
    outer = chain([inner, NearestNeighbourMixing()])
    assert isinstance(outer, Chain)
    assert [type(part) for part in outer.parts] == [Clipping, Bucketing, NearestNeighbourMixing]


def test_a_rule_behind_a_chain_conforms():
    def mixed() -> Krum:
        rule = Krum()
        rule.pre = chain([NearestNeighbourMixing(), AdaptiveClipping()])
        rule.properties = frozenset()
        return rule

    check_strategy(mixed)
