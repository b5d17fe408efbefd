from __future__ import annotations

import numpy as np
from references import aggregate, random_rows, relative_error, updates_of

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


def test_a_backdoors_coordinates_are_turned_around():
    # Three of ten push the last coordinate, in which nobody else moves: 3 votes of 10 are too few.
    rows = np.full((10, 3), 0.5)
    rows[:, 2] = 0.0
    rows[:3, 2] = 2.0
    found = aggregate(RLR(agreement=0.4, clip=False), rows)
    np.testing.assert_allclose(found, [0.5, 0.5, -0.6], rtol=1e-6)


def test_long_updates_are_clipped_before_they_are_averaged():
    rows = np.array([[3.0, 4.0], [6.0, 8.0], [3.0, 4.0]])
    np.testing.assert_allclose(aggregate(RLR(agreement=0.5), rows), [3.0, 4.0], rtol=1e-6)


def test_the_share_of_coordinates_in_which_a_client_votes_with_the_majority_is_told():
    rows = np.array([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, -1.0]])
    verdict = RLR().decide(updates_of(rows))
    assert verdict.scores["sign_agreement"].tolist() == [1.0, 1.0, 0.75]
