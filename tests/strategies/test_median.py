from __future__ import annotations

import byzfl
import numpy as np
import pytest
from references import aggregate, random_rows, relative_error, updates_of

from fedguard.strategies.median import Median


@pytest.mark.parametrize("count", [1, 2, 5, 10])
def test_equals_byzfl(count):
    rows = random_rows(count, 300, seed=count)
    wanted = byzfl.Median()(rows.astype(np.float64))
    assert relative_error(aggregate(Median(), rows), wanted) < 1e-5


def test_claims_do_not_count():
    rows = random_rows(5, 20, seed=0)
    plain = Median().decide(updates_of(rows)).delta
    claimed = Median().decide(updates_of(rows, num_examples=[1, 1e9, 1, 1, 1])).delta
    np.testing.assert_array_equal(plain.numpy(), claimed.numpy())
