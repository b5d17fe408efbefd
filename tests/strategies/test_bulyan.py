from __future__ import annotations

import numpy as np
import pytest
import torch
from references import aggregate, krum_scores64, random_rows, relative_error, updates_of

from fedguard.strategies.bulyan import Bulyan, repeated_krum
from fedguard.strategies.toolkit.distances import squared_distances


def bulyan64(rows, bound: int) -> np.ndarray:
    """Bulyan by the book: pick (ties together), remove, pick again; mean around the median."""
    wide, left, picked = rows.astype(np.float64), list(range(len(rows))), []
    while len(picked) < len(rows) - 2 * bound:
        scores = krum_scores64(wide[left], bound)
        best = [left[at] for at in np.flatnonzero(scores <= scores.min() * (1 + 1e-9))]
        picked += best
        left = [row for row in left if row not in best]
    chosen = wide[picked]
    beta = len(picked) - 2 * bound
    gaps = np.abs(chosen - np.median(chosen, axis=0))
    near = np.argsort(gaps, axis=0, kind="stable")[:beta]
    return np.take_along_axis(chosen, near, axis=0).mean(axis=0)


@pytest.mark.parametrize(("count", "share", "bound"), [(11, 0.15, 2), (15, 0.2, 3), (20, 0.2, 4)])
def test_equals_the_definition(count, share, bound):
    rows = random_rows(count, 100, seed=count)
    found = aggregate(Bulyan(assumed_malicious=share), rows)
    assert relative_error(found, bulyan64(rows, bound)) < 1e-5


def test_picks_anew_after_every_pick():
    # Taking the m lowest scores of one Krum run is not Bulyan.
    rows = random_rows(15, 30, seed=3)
    squared = squared_distances(torch.from_numpy(rows))
    iterative = set(repeated_krum(squared, 3, 9).nonzero().flatten().tolist())
    at_once = set(np.argsort(krum_scores64(rows, 3))[:9].tolist())
    assert len(iterative) == 9
    assert iterative != at_once


def test_below_its_minimum_the_bound_is_lowered():
    rows = random_rows(6, 20, seed=1)
    found = aggregate(Bulyan(assumed_malicious=0.4), rows)
    assert relative_error(found, rows.mean(axis=0)) < 1e-6


def test_one_coordinate_far_out_is_cut_off():
    rows = random_rows(15, 40, seed=5)
    rows[2, 7] = 3.0
    assert np.abs(aggregate(Bulyan(assumed_malicious=0.2), rows)).max() < 0.5
    verdict = Bulyan(assumed_malicious=0.2).decide(updates_of(rows))
    assert 2 in verdict.reasons
