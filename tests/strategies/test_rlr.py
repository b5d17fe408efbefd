from __future__ import annotations

import numpy as np
from references import aggregate, random_rows, relative_error

from fedguard.strategies.rlr import RLR


def test_equals_the_definition_without_clipping():
    rows = random_rows(10, 200, seed=0)
    agreement = np.abs(np.sign(rows).sum(axis=0))
    wanted = np.where(agreement >= 4, 1.0, -1.0) * rows.astype(np.float64).mean(axis=0)
    found = aggregate(RLR(agreement=0.4, clip=False), rows)
    assert relative_error(found, wanted) < 1e-6
    assert (agreement < 4).any()


def test_full_agreement_keeps_the_mean_and_none_asks_for_it():
    rows = np.abs(random_rows(5, 30, seed=1))
    assert (aggregate(RLR(agreement=1.0), rows) > 0).all()
    assert relative_error(aggregate(RLR(agreement=0.0, clip=False), rows), rows.mean(axis=0)) < 1e-6
