from __future__ import annotations

import byzfl
import numpy as np
import pytest
from references import aggregate, random_rows, relative_error, updates_of

from fedguard.strategies.caf import CAF


def caf64(rows, bound: int) -> np.ndarray:
    """The filter on the full covariance matrix, with exact eigenvectors."""
    wide = rows.astype(np.float64)
    left, best, smallest = np.ones(len(wide)), wide.mean(axis=0), np.inf
    while left.sum() > len(wide) - 2 * bound:
        mean = left @ wide / left.sum()
        gaps = wide - mean
        values, vectors = np.linalg.eigh((gaps * left[:, None]).T @ gaps / left.sum())
        if values[-1] < smallest:
            smallest, best = values[-1], mean
        spread = (gaps @ vectors[:, -1]) ** 2
        left = left * (1.0 - spread / spread[left > 1e-9].max()).clip(min=0.0)
    return best


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_filter_on_the_covariance_matrix(seed):
    rows = random_rows(12, 30, seed)
    rows[:2] += 1.0
    found = aggregate(CAF(assumed_malicious=0.25), rows)
    assert relative_error(found, caf64(rows, 3)) < 1e-5


@pytest.mark.parametrize("seed", range(3))
def test_equals_byzfl_where_its_power_iteration_is_exact(seed):
    # One step from a random start finds the top eigenvector only if there is one direction.
    along = np.random.default_rng(seed).normal(size=(10, 1))
    rows = (along * np.linspace(0.1, 1.0, 20)).astype(np.float32)
    wanted = byzfl.CAF(f=3)(rows.astype(np.float64))
    assert relative_error(aggregate(CAF(assumed_malicious=0.3), rows), wanted) < 1e-5


def test_without_malicious_clients_it_is_the_mean():
    rows = random_rows(6, 10, seed=5)
    assert relative_error(aggregate(CAF(assumed_malicious=0.0), rows), rows.mean(axis=0)) < 1e-6


def test_outliers_lose_their_weight():
    rows = random_rows(16, 100, seed=6)
    rows[:4] = 5.0
    verdict = CAF(assumed_malicious=0.25).decide(updates_of(rows))
    assert float(verdict.weights[:4].sum()) < 1e-6
