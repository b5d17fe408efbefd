from __future__ import annotations

from itertools import combinations

import byzfl
import numpy as np
import pytest
from references import aggregate, random_rows, relative_error, updates_of

from fedguard.strategies.smea import SMEA


def smea64(rows, bound: int) -> np.ndarray:
    wide = rows.astype(np.float64)
    subsets = [list(s) for s in combinations(range(len(wide)), len(wide) - bound)]
    spread = [np.linalg.norm(wide[s] - wide[s].mean(axis=0), ord=2) for s in subsets]
    return wide[subsets[int(np.argmin(spread))]].mean(axis=0)


@pytest.mark.parametrize(("count", "share", "bound"), [(7, 0.25, 2), (9, 0.3, 3)])
@pytest.mark.parametrize("seed", range(3))
def test_equals_trying_every_subset_with_full_vectors(count, share, bound, seed):
    rows = random_rows(count, 40, seed)
    found = aggregate(SMEA(assumed_malicious=share), rows)
    assert relative_error(found, smea64(rows, bound)) < 1e-5


@pytest.mark.parametrize("seed", range(3))
def test_equals_byzfl_in_one_dimension(seed):
    # One power step from a random start gives neither the top eigenvector nor its eigenvalue,
    # unless there is but one dimension: elsewhere ByzFL's result is random.
    rows = random_rows(9, 1, seed)
    wanted = byzfl.SMEA(f=2)(rows.astype(np.float64))
    assert relative_error(aggregate(SMEA(assumed_malicious=0.2), rows), wanted) < 1e-5


def test_too_many_subsets_fall_back_to_leaving_out_one_by_one():
    rows = random_rows(30, 60, seed=4)
    rows[5:12] -= 2.0
    verdict = SMEA(assumed_malicious=0.23, max_subsets=100).decide(updates_of(rows))
    assert float(verdict.scores["exact"][0]) == 0.0
    assert set(verdict.reasons) == set(range(5, 12))


@pytest.mark.parametrize("size", [1e2, 1e5, 1e8])
def test_beyond_all_subsets_a_decoy_hides_nobody(size):
    rows = random_rows(30, 60, seed=7)
    rows[1:5] -= 2.0
    rows[0] = size * random_rows(1, 60, seed=8, mean=0.0, std=1.0)
    verdict = SMEA(assumed_malicious=0.16, max_subsets=100).decide(updates_of(rows))
    assert set(verdict.reasons) == {0, 1, 2, 3, 4}
    assert relative_error(verdict.delta, rows[5:].mean(axis=0)) < 1e-5
