from __future__ import annotations

import byzfl
import pytest
from references import aggregate, random_rows, relative_error

from fedguard.strategies.meamed import MeaMed


@pytest.mark.parametrize(("count", "share", "bound"), [(11, 0.2, 3), (20, 0.25, 5), (10, 0.4, 4)])
def test_equals_byzfl(count, share, bound):
    rows = random_rows(count, 300, seed=count)
    wanted = byzfl.Meamed(f=bound)(rows.astype("float64"))
    assert relative_error(aggregate(MeaMed(assumed_malicious=share), rows), wanted) < 1e-5


def test_values_that_tie_on_both_sides_of_the_median_count_together():
    found = aggregate(MeaMed(assumed_malicious=0.49), [[-3.0], [-1.0], [1.0], [9.0]])
    assert found.tolist() == [0.0]
