from __future__ import annotations

import byzfl
import numpy as np
import pytest
import torch
from references import aggregate, krum_scores64, random_rows, relative_error, updates_of

from fedguard.errors import ConfigurationError
from fedguard.strategies.krum import Krum, MultiKrum, krum_scores
from fedguard.strategies.toolkit.distances import squared_distances


@pytest.mark.parametrize(("count", "bound"), [(7, 2), (10, 2), (20, 5), (4, 1), (3, 1), (2, 0)])
def test_scores_equal_the_definition(count, bound):
    rows = random_rows(count, 300, seed=count)
    found = krum_scores(squared_distances(torch.from_numpy(rows)), bound)
    np.testing.assert_allclose(found.numpy(), krum_scores64(rows, bound), rtol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_equals_byzfl_with_the_same_number_of_neighbours(seed):
    # ByzFL sums n - f - 1 neighbours, the paper n - f - 2: its f is ours plus one.
    rows = random_rows(20, 200, seed)
    ours = aggregate(Krum(assumed_malicious=0.2), rows)
    assert relative_error(ours, byzfl.Krum(f=5)(rows.astype(np.float64))) < 1e-5
    several = MultiKrum(assumed_malicious=0.2, num_selected=15)
    wanted = byzfl.MultiKrum(f=5)(rows.astype(np.float64))
    assert relative_error(aggregate(several, rows), wanted) < 1e-5


def test_takes_the_lowest_score():
    rows = random_rows(11, 50, seed=1)
    best = int(np.argmin(krum_scores64(rows, 3)))
    np.testing.assert_array_equal(aggregate(Krum(assumed_malicious=0.25), rows), rows[best])


def test_multi_krum_averages_the_m_lowest_and_says_why_not_the_others():
    rows = random_rows(10, 50, seed=2)
    rows[3] += 5.0
    verdict = MultiKrum(assumed_malicious=0.2).decide(updates_of(rows))
    scores = krum_scores64(rows, 2)
    chosen = np.argsort(scores)[:8]
    assert relative_error(verdict.delta, rows[chosen].mean(axis=0, dtype=np.float64)) < 1e-6
    assert set(verdict.reasons) == set(range(10)) - set(chosen.tolist())
    assert "Krum score" in verdict.reasons[3]


def test_late_in_training_distances_keep_their_digits():
    # Weights N(0, .05), updates N(0, 1e-5): float32 distances of whole models would be noise.
    rng = np.random.default_rng(0)
    rows = rng.normal(0.0, 1e-5, (10, 1_000_000)).astype(np.float32)
    found = squared_distances(torch.from_numpy(rows)).numpy()
    for i in range(10):
        for j in range(i):
            wanted = float(np.square(rows[i].astype(np.float64) - rows[j]).sum())
            assert abs(found[i, j] - wanted) < 1e-6 * wanted


def test_a_huge_row_at_any_place_does_not_change_the_choice():
    rows = random_rows(12, 100, seed=4)
    wanted = aggregate(Krum(assumed_malicious=0.1), np.concatenate([rows, rows[:1] * 0 + 1e9]))
    for at in (0, 5, 12):
        found = aggregate(Krum(assumed_malicious=0.1), np.insert(rows, at, 1e9, axis=0))
        np.testing.assert_array_equal(found, wanted)


def test_ties_are_averaged():
    rows = np.array([[0.0, 0.0], [1.0, 0.0], [10.0, 0.0]])
    np.testing.assert_allclose(aggregate(Krum(assumed_malicious=0.3), rows), [0.5, 0.0])


@pytest.mark.parametrize("arguments", [{"assumed_malicious": 0.5}, {"num_selected": 0}])
def test_refuses_bad_arguments(arguments):
    with pytest.raises(ConfigurationError, match=next(iter(arguments))):
        MultiKrum(**arguments)
