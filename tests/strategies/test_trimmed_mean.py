from __future__ import annotations

import byzfl
import numpy as np
import pytest
from references import aggregate, random_rows, relative_error

from fedguard.errors import ConfigurationError
from fedguard.strategies.trimmed_mean import TrimmedMean


@pytest.mark.parametrize(("count", "share", "trim"), [(10, 0.2, 2), (20, 0.25, 5), (7, 0.4, 3)])
def test_equals_byzfl(count, share, trim):
    rows = random_rows(count, 300, seed=count)
    wanted = byzfl.TrMean(f=trim)(rows.astype(np.float64))
    assert relative_error(aggregate(TrimmedMean(assumed_malicious=share), rows), wanted) < 1e-5


def test_trims_at_most_all_but_the_middle():
    rows = random_rows(2, 30, seed=1)
    found = aggregate(TrimmedMean(assumed_malicious=0.49), rows)
    assert relative_error(found, rows.mean(axis=0)) < 1e-6


def test_refuses_half_malicious():
    with pytest.raises(ConfigurationError, match="assumed_malicious"):
        TrimmedMean(assumed_malicious=0.5)
