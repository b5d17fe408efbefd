"""Copies, clusters and outliers among a round's updates, and how far claims are believed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from references import updates_of

from fedguard.strategies.toolkit.claims import WIDE_CLAIM_CAP, claimed_reach, claimed_shares
from fedguard.strategies.toolkit.judged_round import JudgedRound
from fedguard.strategies.toolkit.weight_view import (
    central_largest_cluster,
    copy_votes,
    length_spread,
    majority_clusters,
    pulls,
    reject_copies,
    reject_far_third,
    reject_long,
    scaled,
    usual_distance,
)


def between(points) -> np.ndarray:
    """Return the distances between points on a line."""
    wide = np.asarray(points, dtype=np.float64)
    return np.abs(wide[:, None] - wide[None, :])


def judged(rows, **more) -> JudgedRound:
    updates = updates_of(rows, **more)
    count = len(updates)
    everybody = np.ones(count, dtype=bool)
    norms = updates.deltas.norm(dim=1).double()
    return JudgedRound(updates, norms, everybody, {}, {}, torch.ones(count))


def test_distances_are_scaled_to_a_median_of_one_half():
    found = scaled(between([0.0, 1.0, 3.0]))
    assert found[0].tolist() == [0.0, 0.25, 0.75]
    assert not scaled(np.zeros((3, 3))).any()


def test_copies_share_a_vote_and_others_have_one_each():
    votes = copy_votes(between([0.0, 0.01, 10.0, 20.0, 20.02, 20.01]), np.full(6, 20.0))
    assert votes.tolist() == [0, 0, 1, 2, 2, 2]


def test_how_near_a_copy_lies_is_in_units_of_the_usual_distance():
    # The lower medians of each one's distances are 21, 20, 20, 20 and 40: within 0.05 is within 1.
    assert usual_distance(between([0.0, 1.0, 21.0, 41.0, 61.0])) == 20.0
    assert copy_votes(between([0.0, 1.0, 21.0, 41.0, 61.0]), np.full(5, 30.0)).tolist() == [
        0,
        0,
        1,
        2,
        3,
    ]
    assert copy_votes(between([0.0, 1.1, 21.1, 41.1, 61.1]), np.full(5, 30.0)).tolist() == [
        0,
        1,
        2,
        3,
        4,
    ]


def test_updates_of_clients_that_have_nothing_left_to_learn_are_no_copies():
    """Next to nothing, each in its own direction; copies of each other at that length are."""
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(12, 30))
    rows[:4] *= 1e-3
    distance = np.linalg.norm(rows[:, None] - rows[None, :], axis=2)
    assert copy_votes(distance, np.linalg.norm(rows, axis=1)).tolist() == list(range(12))
    rows[:4] = rows[0]
    distance = np.linalg.norm(rows[:, None] - rows[None, :], axis=2)
    assert copy_votes(distance, np.linalg.norm(rows, axis=1)).tolist() == [0, 0, 0, 0, *range(1, 9)]


@pytest.mark.parametrize(("count", "far"), [(3, 1), (5, 2), (10, 4), (20, 6), (20, 9)])
@pytest.mark.parametrize("where", ["apart", "together", "at one point"])
def test_a_minority_however_far_does_not_set_the_usual_distance(count, far, where):
    rng = np.random.default_rng(count)
    points = rng.normal(size=(count, 8))
    shift = {"apart": rng.normal(size=(far, 8)), "together": 1.0 + 1e-3 * points[:far]}
    points[:far] = 1e6 * shift.get(where, np.ones((far, 8)))
    distances = np.linalg.norm(points[:, None] - points[None, :], axis=2)
    honest = distances[far:, far:][~np.eye(count - far, dtype=bool)]
    assert honest.min() <= usual_distance(distances) <= honest.max()
    assert len(set(copy_votes(distances, np.linalg.norm(points, axis=1))[far:])) == count - far


def test_one_client_is_at_no_distance():
    assert usual_distance(np.zeros((1, 1))) == 0.0


def test_two_copies_may_be_chance_and_three_are_none():
    state = judged([[0.0], [0.0], [5.0], [9.0], [9.0], [9.0]])
    reject_copies(state, np.array([0, 0, 1, 2, 2, 2]))
    assert state.keep.tolist() == [True, True, True, False, False, False]
    assert state.reasons == dict.fromkeys([3, 4, 5], "one of 3 near-identical updates")


def test_where_all_are_copies_nobody_is_rejected():
    state = judged(np.ones((4, 2)))
    reject_copies(state, np.zeros(4, dtype=np.int64))
    assert state.keep.all()
    assert not state.reasons


def test_a_block_of_more_than_half_is_no_coalition():
    state = judged([[0.0]] * 4 + [[9.0]] * 3)
    reject_copies(state, np.array([0, 0, 0, 0, 1, 1, 1]))
    assert state.keep.tolist() == [True] * 4 + [False] * 3


def test_where_every_client_is_in_a_block_nobody_is_rejected():
    state = judged([[0.0]] * 3 + [[9.0]] * 3)
    reject_copies(state, np.array([0, 0, 0, 1, 1, 1]))
    assert state.keep.all()


def test_the_first_reason_stays():
    state = judged([[0.0], [1.0]])
    state.reject(1, "first")
    state.reject(1, "second")
    assert state.reasons == {1: "first"}
    assert state.keep.tolist() == [True, False]


def test_the_largest_cluster_and_of_equal_ones_that_near_the_median():
    labels = np.array([0, 0, 0, 1, 1, 2])
    updates = updates_of([[9.0], [9.0], [9.0], [0.0], [0.0], [1.0]])
    assert central_largest_cluster(labels, updates) == 0
    labels = np.array([0, 0, 1, 1, 2])
    updates = updates_of([[9.0], [9.0], [1.0], [1.0], [0.0]])
    assert central_largest_cluster(labels, updates) == 1


def test_clusters_are_taken_from_the_centre_until_they_hold_the_majority_of_votes():
    rows = [[0.0], [0.1], [1.0], [1.1], [50.0]]
    labels = np.array([0, 0, 1, 1, 2])
    assert majority_clusters(labels, np.arange(5), updates_of(rows)) == {0, 1}
    # Three copies of the far client are one vote, so they do not become the majority.
    rows = [[0.0], [0.1], [0.2], [50.0], [50.0], [50.0], [50.0]]
    labels, votes = np.array([0, 0, 0, 1, 1, 1, 1]), np.array([0, 1, 2, 3, 3, 3, 3])
    assert majority_clusters(labels, votes, updates_of(rows)) == {0}


@pytest.mark.parametrize(("third", "rejected"), [(3.9, []), (4.1, [2]), (-3.1, [2]), (-2.9, [])])
def test_of_three_one_goes_that_is_three_times_as_far_as_the_others_are_apart(third, rejected):
    state = judged([[0.0], [1.0], [third]])
    reject_far_third(state, torch.from_numpy(between([0.0, 1.0, third])))
    assert sorted(state.reasons) == rejected


def test_claims_count_up_to_a_multiple_of_their_median():
    updates = updates_of(np.ones((5, 2)), num_examples=[10.0, 20.0, 20.0, 59.0, 1e6])
    assert claimed_shares(updates, 3.0).tolist() == [10.0, 20.0, 20.0, 59.0, 60.0]


def test_who_claims_four_times_as_much_may_be_twice_as_long():
    updates = updates_of(np.ones((5, 2)), num_examples=[5.0, 20.0, 20.0, 80.0, 1e6])
    assert claimed_reach(updates).tolist() == [1.0, 1.0, 1.0, 2.0, WIDE_CLAIM_CAP**0.5]


def test_pulls_are_projections_on_the_others_directions_in_median_norms():
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    found = pulls(rows @ rows.T)
    # Directions (1, 0), (0, 1), (-1, 0), (1, 0); median norm 2; the third has (2, 1) against it.
    assert float(found[2]) == pytest.approx(-3.0 * 2.0 / 5.0**0.5 / 2.0)
    assert float(found[1]) == pytest.approx(0.0)
    # For the first the others' directions sum to (0, 1); for the fourth as well.
    assert float(found[0]) == pytest.approx(0.0)


def test_a_coalition_does_not_vouch_for_itself():
    """However many go the same way, each is measured against those unlike it."""
    honest = torch.randn(9, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    honest[:, 0] += 2.0
    honest /= honest.norm(dim=1, keepdim=True)
    liar = torch.tensor([[-1.0, 0.1, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    liar /= liar.norm()
    alone, four = (torch.cat([honest, liar.expand(count, -1)]) for count in (1, 4))
    expected = float(pulls(alone @ alone.T)[9])
    assert expected < -0.8
    assert pulls(four @ four.T)[9:].tolist() == pytest.approx([expected] * 4)


def test_a_majority_that_goes_one_way_is_measured_against_everybody():
    rows = torch.tensor([[1.0, 0.0]] * 5 + [[-1.0, 0.0]] * 3, dtype=torch.float64)
    found = pulls(rows @ rows.T)
    assert found[:5].tolist() == pytest.approx([1.0] * 5)
    assert found[5:].tolist() == pytest.approx([-1.0] * 3)


def test_two_clients_of_the_same_labels_are_witnesses_of_each_other():
    rows = torch.tensor([[1.0, 0.0]] * 2 + [[0.0, 1.0], [0.0, -1.0], [0.0, 1.0]])
    found = pulls((rows @ rows.T).double())
    assert found[:2].tolist() == pytest.approx([0.5**0.5] * 2)


def test_longer_updates_than_asked_for_pull_no_harder():
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-8.0, 0.0]])
    gram = (rows @ rows.T).double()
    short = pulls(gram, torch.full((5,), 2.0, dtype=torch.float64))
    assert short[:4].tolist() == pulls(gram)[:4].tolist()
    assert float(short[4]) == pytest.approx(float(pulls(gram)[4]) / 4.0)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([1.0, 2.0, 4.0, 8.0, 16.0], 2.0 ** (1.5 * 1.4826)),
        ([0.0, 1.0, 2.0, 4.0, 8.0, 16.0], 2.0 ** (1.5 * 1.4826)),  # who sends nothing
        ([4.0, 4.0, 4.0, 32.0, 32.0], 1.0),  # long liars widen one side alone
        ([1.0, 4.0, 4.0, 4.0, 4.0], 1.0),
        ([1.0, 2.0, 4.0, 8.0], 1.0),  # too few to tell
        ([0.0] * 6, 1.0),
    ],
)
def test_how_much_lengths_differ(lengths, expected):
    norms = torch.tensor(lengths, dtype=torch.float64)
    assert length_spread(norms) == pytest.approx(expected)


LENGTHS = {"differ": [0.3, 0.5, 0.8, 1.0, 1.0, 1.3, 2.0, 2.4], "alike": [0.9] * 4 + [1.1] * 4}


@pytest.mark.parametrize(
    ("lengths", "way", "stays"),
    [("differ", 1.0, True), ("differ", -1.0, False), ("differ", 0.0, False), ("alike", 1.0, False)],
)
def test_a_long_update_stays_where_lengths_differ_and_it_goes_the_way_of_the_others(
    lengths, way, stays
):
    """One class each and little left to learn: who holds both is no liar for being longer."""
    rows = [[length, 0.1 * (-1.0) ** k, 0.0] for k, length in enumerate(LENGTHS[lengths])]
    state = judged([*rows, [3.5 * way, 0.0, 0.0 if way else 3.5]])
    gram = (state.updates.deltas @ state.updates.deltas.T).double()
    limits = reject_long(state, gram, 2.5)
    assert limits.tolist() == pytest.approx([2.5 * float(state.norms.median())] * 9)
    assert state.keep.tolist() == [True] * 8 + [stays]


def test_no_length_excuses_more_than_lengths_differ_by():
    rows = [[length, 0.1 * (-1.0) ** k] for k, length in enumerate(LENGTHS["differ"])]
    state = judged([*rows, [1000.0, 0.0]])
    reject_long(state, (state.updates.deltas @ state.updates.deltas.T).double(), 2.5)
    assert "times as long" in state.reasons[8]
