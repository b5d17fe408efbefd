from __future__ import annotations

import byzfl
import numpy as np
from references import aggregate, random_rows, relative_error, updates_of

from fedguard.strategies.fedavg import FedAvg


def test_weighs_by_claimed_examples():
    rows = random_rows(4, 50, seed=0)
    claims = np.array([1.0, 2.0, 3.0, 10.0])
    verdict = FedAvg().decide(updates_of(rows, num_examples=claims))
    wanted = (claims / claims.sum()) @ rows.astype(np.float64)
    assert relative_error(verdict.delta, wanted) < 1e-6
    np.testing.assert_allclose(verdict.weights, claims / 16.0)


def test_equal_claims_equal_byzfls_average():
    rows = random_rows(9, 50, seed=1)
    wanted = byzfl.Average()(rows.astype(np.float64))
    assert relative_error(aggregate(FedAvg(), rows), wanted) < 1e-5
