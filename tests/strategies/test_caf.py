from __future__ import annotations

import byzfl
import numpy as np
import pytest
from references import aggregate, random_rows, relative_error, updates_of

from fedguard.strategies.caf import CAF


def caf64(rows, bound: int, *, among_all: bool = False) -> np.ndarray:
    """The filter on the full covariance matrix, with exact eigenvectors.

    `among_all` takes the largest spread over all clients, those of weight 0 included.
    """
    wide = rows.astype(np.float64)
    left, best, smallest = np.ones(len(wide)), wide.mean(axis=0), np.inf
    while left.sum() > len(wide) - 2 * bound:
        mean = left @ wide / left.sum()
        gaps = wide - mean
        values, vectors = np.linalg.eigh((gaps * left[:, None]).T @ gaps / left.sum())
        if values[-1] < smallest:
            smallest, best = values[-1], mean
        spread = (gaps @ vectors[:, -1]) ** 2
        left = left * (1.0 - spread / spread[(left > 1e-9) | among_all].max()).clip(min=0.0)
    return best


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_filter_on_the_covariance_matrix(seed):
    rows = random_rows(12, 30, seed)
    rows[:2] += 1.0
    found = aggregate(CAF(assumed_malicious=0.25), rows)
    assert relative_error(found, caf64(rows, 3)) < 1e-5


@pytest.mark.parametrize("seed", range(3))
def test_differs_from_byzfl_in_one_dimension_by_whom_it_divides_by(seed):
    # One power step from a random start gives neither the top eigenvector nor its eigenvalue,
    # unless there is but one dimension: elsewhere ByzFL's result is random.
    rows = random_rows(10, 1, seed)
    wanted = byzfl.CAF(f=3)(rows.astype(np.float64))
    assert relative_error(caf64(rows, 3, among_all=True), wanted) < 1e-5
    # ByzFL also divides by the spread of clients that it has left out already. One huge client
    # then keeps all other weights at 1 for ever; ours divides by the largest of those still in.
    found = aggregate(CAF(assumed_malicious=0.3), rows)
    assert relative_error(found, caf64(rows, 3)) < 1e-5


def test_without_malicious_clients_it_is_the_mean():
    rows = random_rows(6, 10, seed=5)
    assert relative_error(aggregate(CAF(assumed_malicious=0.0), rows), rows.mean(axis=0)) < 1e-6


def test_outliers_lose_their_weight():
    rows = random_rows(16, 100, seed=6)
    rows[:4] = 5.0
    verdict = CAF(assumed_malicious=0.25).decide(updates_of(rows))
    assert float(verdict.weights[:4].sum()) < 1e-6


@pytest.mark.parametrize("size", [1e2, 1e4, 1e6, 1e8])
def test_a_decoy_hides_nobody(size):
    rows = random_rows(20, 60, seed=7)
    rows[1:4] -= 2.0
    rows[0] = size * random_rows(1, 60, seed=8, mean=0.0, std=1.0)
    verdict = CAF(assumed_malicious=0.25).decide(updates_of(rows))
    assert float(verdict.weights[:4].sum()) < 1e-6
    assert relative_error(verdict.delta, rows[4:].mean(axis=0)) < 0.3
