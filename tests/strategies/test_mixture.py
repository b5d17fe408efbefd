from __future__ import annotations

import copy
import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from references import relative_error

from fedguard.strategies.pre_aggregation import PRE_AGGREGATIONS, make_pre_aggregation
from fedguard.strategies.toolkit import coordinates, distances, mixture
from fedguard.strategies.toolkit.coordinates import (
    central_mean,
    coordinate_median,
    mean_around_median,
)
from fedguard.strategies.toolkit.mixture import MixedUpdates, Mixture
from fedguard.testing import honest_updates
from fedguard.updates import ClientUpdates

RULES = ["fedavg", "median", "trimmed-mean", "meamed", "krum", "multi-krum", "bulyan", "mda"]
RULES += ["smea", "caf", "geometric-median", "centered-clipping", "norm-clipping", "flame"]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(mixture, "_ENTRIES_PER_BLOCK", 64)


def mixed(diagonal: bool = False) -> tuple[Mixture, torch.Tensor]:
    stream = torch.Generator().manual_seed(0)
    rows = torch.randn(5, 83, generator=stream)
    square = torch.diag(torch.rand(5, generator=stream))
    matrix = square if diagonal else torch.rand(3, 5, generator=stream)
    tail = torch.randn(len(matrix), 4, generator=stream)
    return Mixture(matrix, rows, tail), torch.cat([matrix @ rows, tail], dim=1)


@pytest.mark.parametrize("diagonal", [False, True])
def test_every_reading_equals_that_of_the_dense_matrix(diagonal):
    lazy, dense = mixed(diagonal)
    close = torch.testing.assert_close
    close_enough = partial(close, rtol=1e-5, atol=1e-5)
    assert lazy.shape == tuple(dense.shape)
    close(lazy.dense(), dense)
    close(lazy.row(1), dense[1])
    close(coordinate_median(lazy), coordinate_median(dense))
    close(central_mean(lazy, 1, 2), central_mean(dense, 1, 2))
    close(mean_around_median(lazy, 2), mean_around_median(dense, 2))
    shares = torch.rand(len(lazy), dtype=torch.float64)
    close(mixture.combination(lazy, shares), mixture.combination(dense, shares))
    for center in (None, dense[0]):
        close_enough(distances.gram_matrix(lazy, center), distances.gram_matrix(dense, center))
        close_enough(distances.row_norms(lazy, center), distances.row_norms(dense, center))
    close_enough(distances.squared_distances(lazy), distances.squared_distances(dense))


@pytest.mark.parametrize("pre", ["bucketing", "clipping"])
@pytest.mark.parametrize("chosen", [None, [5, 0, 3]])
def test_sums_of_few_rows_are_added_up_inside_the_kernels(pre, chosen, monkeypatch):
    updates = honest_updates(13, seed=2)
    lazy = make_pre_aggregation(pre)(updates).mixture
    dense, index = lazy.dense(), None if chosen is None else torch.tensor(chosen)
    wanted = central_mean(dense, 1, 3, index), mean_around_median(dense, 2, index)
    monkeypatch.setattr(coordinates, "COMPILED_FROM", 1)
    monkeypatch.setattr(Mixture, "blocks", None)  # nothing is mixed into memory
    found = central_mean(lazy, 1, 3, index), mean_around_median(lazy, 2, index)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("pre", sorted(set(PRE_AGGREGATIONS) - {"touched-rows"}))  # no mixture
@pytest.mark.parametrize("rule", RULES)
def test_rules_decide_as_on_the_dense_matrix_without_asking_for_it(pre, rule, monkeypatch):
    from fedguard import registry

    updates = honest_updates(12, seed=1)
    seen = make_pre_aggregation(pre)(updates)
    dense = ClientUpdates.from_matrix(
        seen.mixture.dense(),
        seen.num_examples,
        seen.node_ids,
        seen.global_vector,
        seen.layout,
        server_round=seen.server_round,
    )
    wanted = registry.create("strategy", rule).combine(dense)
    found = registry.create("strategy", rule).combine(seen)
    assert relative_error(found.delta, wanted.delta) < 1e-5
    np.testing.assert_allclose(found.weights, wanted.weights, atol=1e-6)
    assert "deltas" not in vars(seen)


def test_deltas_are_there_when_a_rule_asks():
    seen = make_pre_aggregation("nnm")(honest_updates(6))
    assert isinstance(seen, MixedUpdates)
    assert torch.equal(seen.deltas, seen.mixture.dense())
    assert seen.deltas is seen.deltas
    assert torch.equal(seen.select([1, 0]).deltas, seen.deltas[[1, 0]])
    assert torch.equal(copy.deepcopy(seen).deltas, seen.deltas)
    assert dataclasses.replace(seen, server_round=9).server_round == 9
    with pytest.raises(AttributeError):
        seen.nothing  # noqa: B018


def test_a_block_is_bounded_by_what_it_is_mixed_from_too(monkeypatch) -> None:
    monkeypatch.setattr(mixture, "_ENTRIES_PER_BLOCK", 40)
    rows = torch.arange(400.0).view(4, 100)
    halves = mixture.Mixture(torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]), rows, rows[:2, :0])
    blocks = [(at, block.clone()) for at, block in halves.blocks()]
    assert all(4 * block.shape[1] <= 40 for _, block in blocks)
    assert torch.equal(torch.cat([block for _, block in blocks], dim=1), halves.matrix @ rows)
