from __future__ import annotations

import torch
from references import random_rows

from fedguard.strategies.toolkit.averaging import average, clip_factors, lowest, median
from fedguard.testing import honest_updates, with_deltas


def test_buffers_take_the_median_of_all_clients():
    updates = honest_updates(5)
    first = updates.layout.num_trainable
    deltas = updates.deltas.clone()
    deltas[0, first:] = 1e9
    weights = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    found = average(with_deltas(updates, deltas), weights)
    assert torch.equal(found[:first], deltas[0, :first])
    assert torch.equal(found[first:], deltas[:, first:].median(dim=0).values)


def test_no_weight_gives_no_update():
    updates = honest_updates(3)
    assert not average(updates, torch.zeros(3, dtype=torch.float64)).any()


def test_lowest_takes_ties_that_differ_by_rounding_only():
    scores = torch.tensor([3.0, 1.0, 1.0 + 1e-14, 2.0], dtype=torch.float64)
    assert lowest(scores, 1).tolist() == [False, True, True, False]
    assert lowest(scores, 99).all()
    assert lowest(scores, 0).sum() == 2


def test_clipped_norms_stay_at_the_bound():
    rows = torch.from_numpy(random_rows(5, 20, seed=0)).double()
    rows[0] = 0.0
    norms = rows.norm(dim=1)
    clipped = rows * clip_factors(norms, float(median(norms)))[:, None]
    assert float(clipped.norm(dim=1).max()) <= float(median(norms)) * (1 + 1e-12)
    assert torch.equal(clipped[0], rows[0])
