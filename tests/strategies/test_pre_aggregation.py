from __future__ import annotations

import byzfl
import numpy as np
import pytest
from references import random_rows, relative_error, updates_of

from fedguard.errors import ConfigurationError
from fedguard.strategies.krum import Krum
from fedguard.strategies.median import Median
from fedguard.strategies.pre_aggregation import (
    AdaptiveClipping,
    Bucketing,
    Clipping,
    NearestNeighbourMixing,
    make_pre_aggregation,
)


@pytest.mark.parametrize(("count", "share", "bound"), [(10, 0.2, 2), (20, 0.25, 5)])
def test_nearest_neighbour_mixing_equals_byzfls(count, share, bound):
    rows = random_rows(count, 100, seed=count)
    found = NearestNeighbourMixing(assumed_malicious=share)(updates_of(rows)).deltas
    assert relative_error(found, byzfl.NNM(f=bound)(rows.astype(np.float64))) < 1e-5


@pytest.mark.parametrize("bound", [0.5, 1.0, 50.0])
def test_clipping_equals_byzfls(bound):
    rows = random_rows(8, 100, seed=1)
    found = Clipping(max_norm=bound)(updates_of(rows)).deltas
    assert relative_error(found, byzfl.Clipping(c=bound)(rows.astype(np.float64))) < 1e-5


@pytest.mark.parametrize(("count", "share", "bound"), [(10, 0.2, 2), (20, 0.25, 5), (9, 0.0, 0)])
def test_adaptive_clipping_equals_byzfls(count, share, bound):
    rows = random_rows(count, 100, seed=count) * np.linspace(1, 9, count)[:, None]
    found = AdaptiveClipping(assumed_malicious=share)(updates_of(rows)).deltas
    assert relative_error(found, byzfl.ARC(f=bound)(rows.astype(np.float64))) < 1e-5


@pytest.mark.parametrize(("count", "size"), [(10, 2), (11, 3), (3, 5)])
def test_buckets_cover_every_client_once_and_average(count, size):
    rows = random_rows(count, 30, seed=2)
    updates = updates_of(rows)
    pre = Bucketing(bucket_size=size, seed=4)
    matrix = pre.matrix(updates).numpy()
    assert ((matrix > 0).sum(axis=0) == 1).all()
    assert (matrix > 0).sum(axis=1).max() == min(size, count)
    assert relative_error(pre(updates).deltas, matrix @ rows) < 1e-6
    # The mean over buckets of equal size is the mean over clients, as with ByzFL's.
    if count % size == 0:
        theirs = byzfl.Bucketing(s=size)(rows.astype(np.float64)).mean(axis=0)
        assert relative_error(pre(updates).deltas.mean(dim=0), theirs) < 1e-5


def test_buckets_differ_by_round():
    rows = random_rows(12, 5, seed=3)
    pre = Bucketing()
    one = pre.matrix(updates_of(rows, server_round=1))
    two = pre.matrix(updates_of(rows, server_round=2))
    assert not np.array_equal(one.numpy(), two.numpy())


def test_weights_lead_back_to_clients():
    rows = random_rows(10, 50, seed=5)
    rows[0] += 20.0
    updates = updates_of(rows)
    rule = Krum(assumed_malicious=0.2)
    rule.pre = make_pre_aggregation("bucketing")
    verdict = rule.decide(updates)
    shares = verdict.weights.numpy()
    assert sorted(shares.round(3))[-2:] == [0.5, 0.5]
    assert relative_error(verdict.delta, shares @ rows) < 1e-5
    assert len(verdict.reasons) == 8
    assert all("Krum score" in reason for reason in verdict.reasons.values())


def test_mixing_repairs_the_median_under_heterogeneity():
    # Two honest groups of opposite sign: the plain median swings to the hostile side.
    rows = np.concatenate([np.full((4, 40), -1.0), np.full((5, 40), 1.0)]).astype(np.float32)
    rows += random_rows(9, 40, seed=6, mean=0.0, std=0.01)
    plain = Median().decide(updates_of(rows)).delta
    after_mixing = Median()
    after_mixing.pre = make_pre_aggregation("nnm", assumed_malicious=0.3)
    mixed = after_mixing.decide(updates_of(rows)).delta
    honest = rows.mean(axis=0)
    gap = np.linalg.norm(mixed.numpy() - honest)
    assert gap < np.linalg.norm(plain.numpy() - honest)


def test_names():
    assert isinstance(make_pre_aggregation("nnm"), NearestNeighbourMixing)
    with pytest.raises(ConfigurationError, match="did you mean 'nnm'"):
        make_pre_aggregation("nmm")
