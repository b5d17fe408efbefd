from __future__ import annotations

import numpy as np
import pytest
from references import aggregate, random_rows, relative_error, updates_of

from fedguard.strategies.dnc import DnC


@pytest.mark.parametrize("seed", range(3))
def test_one_pass_over_all_coordinates_equals_the_singular_value_decomposition(seed):
    rows = random_rows(12, 80, seed)
    wide = rows.astype(np.float64)
    gaps = wide - wide.mean(axis=0)
    top = np.linalg.svd(gaps, full_matrices=False)[2][0]
    keep = np.argsort((gaps @ top) ** 2)[:9]
    found = aggregate(DnC(assumed_malicious=0.25, iterations=1), rows)
    assert relative_error(found, wide[keep].mean(axis=0)) < 1e-5


def test_passes_intersect():
    rows = random_rows(12, 400, seed=3)
    one = DnC(assumed_malicious=0.25, iterations=1, sub_dim=40).decide(updates_of(rows))
    many = DnC(assumed_malicious=0.25, iterations=3, sub_dim=40).decide(updates_of(rows))
    kept_one = set(one.weights.nonzero().flatten().tolist())
    kept_many = set(many.weights.nonzero().flatten().tolist())
    assert kept_many < kept_one


def test_colluders_are_left_out():
    rows = random_rows(20, 500, seed=4)
    rows[:4] = rows[4:].mean(axis=0) - 1.5 * rows[4:].std(axis=0)
    verdict = DnC(assumed_malicious=0.25).decide(updates_of(rows))
    assert {0, 1, 2, 3} <= set(verdict.reasons)
