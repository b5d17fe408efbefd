from __future__ import annotations

from itertools import combinations

import byzfl
import numpy as np
import pytest
import torch
from references import aggregate, distances64, random_rows, relative_error, updates_of

from fedguard.strategies.mda import MDA, minimum_diameter
from fedguard.strategies.toolkit.distances import squared_distances


@pytest.mark.parametrize(("count", "share", "bound"), [(7, 0.28, 2), (10, 0.3, 3), (12, 0.4, 5)])
@pytest.mark.parametrize("seed", range(3))
def test_finds_a_subset_of_smallest_diameter(count, share, bound, seed):
    rows = random_rows(count, 20, seed)
    distances = distances64(rows)
    diameters = {
        subset: max(distances[i, j] for i, j in combinations(subset, 2))
        for subset in combinations(range(count), count - bound)
    }
    weights = MDA(assumed_malicious=share).decide(updates_of(rows)).weights
    best = [s for s, d in diameters.items() if d <= min(diameters.values()) * (1 + 1e-12)]
    kept = tuple(weights.nonzero().flatten().tolist())
    assert kept in best
    if len(best) == 1:
        wanted = byzfl.MDA(f=bound)(rows.astype(np.float64))
        assert relative_error(aggregate(MDA(assumed_malicious=share), rows), wanted) < 1e-5


def test_equal_diameters_are_decided_by_the_mean_distance():
    # The first two rows make the diameter 2 with either of the others, which lie 2.5 apart.
    rows = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, -1.3], [0.0, 1.2]])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        weights = MDA(assumed_malicious=0.25).decide(updates_of(rows[order])).weights
        assert order[int((weights == 0).nonzero()[0])] == 2


def test_large_federations_stay_exact_while_attackers_stand_out():
    rows = random_rows(60, 50, seed=1)
    rows[:15] += 3.0
    verdict = MDA(assumed_malicious=0.25).decide(updates_of(rows))
    assert float(verdict.scores["exact"][0]) == 1.0
    assert set(verdict.reasons) == set(range(15))


def test_gives_up_and_falls_back_when_the_search_is_too_long():
    rows = random_rows(60, 50, seed=2)
    rows[:15] += 3.0
    assert minimum_diameter(squared_distances(torch.from_numpy(rows)), 15, max_steps=3) is None
    verdict = MDA(assumed_malicious=0.25, max_steps=3).decide(updates_of(rows))
    assert float(verdict.scores["exact"][0]) == 0.0
    assert set(verdict.reasons) == set(range(15))
