from __future__ import annotations

import numpy as np
import pytest
import torch
from references import aggregate, random_rows, relative_error, updates_of

from fedguard.strategies.foundationfl import FoundationFL, extreme_scores
from fedguard.strategies.median import Median


def foundation64(rows, base_rule, share=0.5, assumed=0.25):
    wide = rows.astype(np.float64)
    high, low = wide.max(axis=0), wide.min(axis=0)
    scores = [min(np.linalg.norm(row - high), np.linalg.norm(row - low)) for row in wide]
    copies = np.repeat(wide[[int(np.argmax(scores))]], int(share * len(rows)), axis=0)
    ordered = np.sort(np.concatenate([wide, copies]), axis=0)
    if base_rule == "median":
        return np.median(ordered, axis=0)
    trim = int(np.ceil(assumed * len(rows)))
    return ordered[trim : len(ordered) - trim].mean(axis=0)


@pytest.mark.parametrize("base_rule", ["median", "trimmed-mean"])
@pytest.mark.parametrize(("count", "seed"), [(7, 0), (12, 1), (25, 2)])
def test_equals_the_formula(base_rule, count, seed):
    rows = random_rows(count, 300, seed)
    rows[:2] -= 1.5
    found = aggregate(FoundationFL(base_rule=base_rule), rows)
    assert relative_error(found, foundation64(rows, base_rule)) < 1e-6


def test_without_copies_it_is_the_median():
    rows = random_rows(9, 40, seed=3)
    found = aggregate(FoundationFL(synthetic_share=0.0), rows)
    np.testing.assert_array_equal(found, aggregate(Median(), rows))


def test_the_copied_client_is_an_inner_one():
    rows = random_rows(20, 400, seed=4)
    rows[:4] += 30.0
    scores = FoundationFL().decide(updates_of(rows)).scores["distance_to_extremes"]
    assert int(scores.argmax()) >= 4
    assert float(scores[:4].max()) < float(scores[4:].min())


def test_two_clients_share_the_copies():
    found = aggregate(FoundationFL(), np.array([[0.0, 4.0], [2.0, 0.0]]))
    np.testing.assert_allclose(found, [1.0, 2.0])


def test_scores_are_distances_from_the_nearer_extreme_by_hand():
    rows = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 2.0], [3.0, 0.0]])
    np.testing.assert_allclose(extreme_scores(rows), [0.0, 0.0, np.sqrt(5.0), 3.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "share", "median", "trimmed"),
    [
        ([0.0, 1.0, 4.0, 10.0], 0.5, 4.0, 3.25),  # 0 1 4 4 4 10
        ([0.0, 1.0, 4.0, 10.0], 1.0, 4.0, 3.5),  # 0 1 4 4 4 4 4 10
        ([0.0, 1.0, 4.0, 10.0], 0.2, 2.5, 2.5),  # less than one copy
        ([0.0, 3.0, 7.0, 10.0, 10.0], 0.5, 7.0, 17.0 / 3.0),  # 0 3 3 7 7 10 10, b = 2
        ([5.0], 1.0, 5.0, 5.0),
        ([2.0, 2.0, 2.0], 0.5, 2.0, 2.0),
        ([0.0, 1.0, float("nan"), 4.0, 10.0], 0.5, 4.0, 3.25),
    ],
)
def test_copies_that_one_can_count_by_hand(values, share, median, trimmed):
    column = np.array(values)[:, None]
    for base_rule, wanted in (("median", median), ("trimmed-mean", trimmed)):
        rule = FoundationFL(base_rule=base_rule, synthetic_share=share)
        np.testing.assert_allclose(aggregate(rule, column), [wanted], rtol=1e-6)


def test_a_client_that_turns_its_update_round_is_the_one_that_is_copied():
    signs = np.where(np.arange(200) % 2, 1.0, -1.0)
    rows = signs * (1.0 + random_rows(8, 200, seed=5, mean=0.0))
    rows[3] *= -1.0
    verdict = FoundationFL().decide(updates_of(rows))
    assert int(verdict.scores["distance_to_extremes"].argmax()) == 3
    assert verdict.weights.tolist() == [1 / 8] * 8
