"""Directions of largest spread from distances alone, against full vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from references import distances64, random_rows

from fedguard.strategies.smea import peel_spread
from fedguard.strategies.toolkit.spectra import centered_gram, top_projections


def weighted_covariance(rows, weights):
    """Return the centred rows, and the weighted covariance's largest eigenvalue and its vector."""
    wide = rows.astype(np.float64)
    gaps = wide - weights @ wide
    values, vectors = np.linalg.eigh((gaps * weights[:, None]).T @ gaps)
    return gaps, values[-1], vectors[:, -1]


@pytest.mark.parametrize("seed", range(3))
def test_the_gram_matrix_is_taken_around_the_weighted_mean(seed):
    rows = random_rows(6, 10, seed)
    weights = np.random.default_rng(seed).dirichlet(np.ones(6))
    gaps, _, _ = weighted_covariance(rows, weights)
    squared = torch.from_numpy(distances64(rows) ** 2)
    found = centered_gram(squared, torch.from_numpy(weights))
    np.testing.assert_allclose(found.numpy(), gaps @ gaps.T, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_projections_are_those_on_the_top_eigenvector(seed):
    rows = random_rows(8, 12, seed)
    weights = np.random.default_rng(seed).dirichlet(np.ones(8))
    weights[0] = 0.0
    weights /= weights.sum()
    gaps, value, vector = weighted_covariance(rows, weights)
    squared = torch.from_numpy(distances64(rows) ** 2)
    found_value, spread = top_projections(squared, torch.from_numpy(weights))
    assert float(found_value) == pytest.approx(value, rel=1e-9)
    np.testing.assert_allclose(spread.numpy(), (gaps @ vector) ** 2, rtol=1e-7, atol=1e-12)


def test_equal_rows_have_no_direction_whatever_lies_outside():
    rows = np.ones((5, 4), dtype=np.float32)
    rows[4] = 1e6
    squared = torch.from_numpy(distances64(rows) ** 2)
    inside = torch.tensor([0.25, 0.25, 0.25, 0.25, 0.0], dtype=torch.float64)
    value, spread = top_projections(squared, inside)
    assert float(value) == 0.0
    assert not spread.any()


def test_small_differences_are_seen_beside_a_row_of_weight_zero():
    rows = np.array([[0.0], [1e-3], [2e-3], [1e9]])
    squared = torch.from_numpy(distances64(rows) ** 2)
    weights = torch.tensor([1 / 3, 1 / 3, 1 / 3, 0.0], dtype=torch.float64)
    value, spread = top_projections(squared, weights)
    assert float(value) == pytest.approx(2e-6 / 3)
    np.testing.assert_allclose(spread[:3].numpy(), [1e-6, 0.0, 1e-6], atol=1e-12)


def test_peeling_leaves_out_the_furthest_one_after_the_other():
    rows = np.array([[0.0, 0.0], [0.1, 0.0], [0.0, 0.1], [90.0, 0.0], [0.0, 7.0]])
    squared = torch.from_numpy(distances64(rows) ** 2)
    assert peel_spread(squared, 1).tolist() == [0.25, 0.25, 0.25, 0.0, 0.25]
    third = 1.0 / 3.0
    np.testing.assert_allclose(peel_spread(squared, 2), [third, third, third, 0.0, 0.0])


def test_peeling_keeps_those_that_cannot_be_told_apart():
    squared = torch.from_numpy(distances64(np.ones((4, 2))) ** 2)
    assert peel_spread(squared, 2).tolist() == [0.25] * 4
