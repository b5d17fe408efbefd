from __future__ import annotations

import byzfl
import numpy as np
from references import aggregate, random_rows, relative_error, updates_of

from fedguard.strategies.centered_clipping import CenteredClipping


def test_two_rounds_equal_byzfls():
    ours = CenteredClipping(clip_radius=1.5, iterations=3)
    theirs = byzfl.CenteredClipping(L=3, tau=1.5)
    for seed in (0, 1):
        rows = random_rows(9, 200, seed)
        wanted = theirs(rows.astype(np.float64))
        assert relative_error(aggregate(ours, rows), wanted) < 1e-5


def test_a_huge_row_moves_the_result_by_a_share_of_the_radius():
    rows = random_rows(10, 100, seed=2)
    moved = rows.copy()
    moved[0] = 1e9
    rule = CenteredClipping(clip_radius=0.5)
    gap = aggregate(rule, moved) - aggregate(CenteredClipping(clip_radius=0.5), rows)
    assert np.linalg.norm(gap) <= 2 * 0.5 / 10 + 1e-6


def test_the_median_radius_follows_the_scale_of_updates():
    rows = random_rows(8, 60, seed=3)
    small = aggregate(CenteredClipping(), rows * np.float32(1e-5))
    assert relative_error(small * 1e5, aggregate(CenteredClipping(), rows)) < 1e-5


def test_remembers_the_last_aggregate():
    rule = CenteredClipping(clip_radius=0.1)
    first = rule.decide(updates_of(random_rows(8, 60, seed=4))).delta
    second = rule.decide(updates_of(random_rows(8, 60, seed=4))).delta
    assert float((second - first).norm()) > 0.05
    rule.reset()
    again = rule.decide(updates_of(random_rows(8, 60, seed=4))).delta
    np.testing.assert_array_equal(again.numpy(), first.numpy())
