"""What averages of some clients would score, and which models lost a class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from references import updates_of
from torch import nn

from fedguard.layout import ParameterLayout
from fedguard.strategies.base import ServerTools
from fedguard.strategies.toolkit.recall_limits import below_recall_limits, upper_median
from fedguard.strategies.toolkit.scored_average import ScoredAverage
from fedguard.strategies.toolkit.scoring import Scores


def averaging(claims, factors=None) -> ScoredAverage:
    """Four clients of a linear model of two classes, told by one feature each."""
    rows = [[2.0, 0.0, 0.0, 2.0]] * 3 + [[0.0, 4.0, 4.0, 0.0]]
    model = nn.Linear(2, 2, bias=False)
    updates = updates_of(rows, layout=ParameterLayout.from_module(model))
    y = torch.tensor([0, 0, 1, 1, 1])
    tools = ServerTools(model, torch.eye(2)[y], y, "", 2)
    return ScoredAverage(tools, updates, torch.tensor(claims, dtype=torch.float64), factors)


def test_weights_are_claims_times_factors_and_add_up_to_one():
    found = averaging([1.0, 1.0, 2.0, 4.0]).weights(np.array([1.0, 1.0, 1.0, 0.5]))
    np.testing.assert_allclose(found, [1 / 6, 1 / 6, 2 / 6, 2 / 6])
    assert not averaging([1.0] * 4).weights(np.zeros(4)).any()


def test_examples_are_counted_by_class():
    assert averaging([1.0] * 4).examples.tolist() == [2, 3]


@pytest.mark.parametrize(("share", "lift"), [(0.4, 2.0), (0.25, 1.0), (0.1, 1.0)])
def test_a_group_beside_the_rest_holds_at_least_its_share(share, lift):
    average = averaging([1.0] * 4)
    rest, group = np.array([1, 1, 1, 0], dtype=bool), np.array([0, 0, 0, 1], dtype=bool)
    factors = average.joined(rest, group, share)
    np.testing.assert_allclose(factors, [1.0, 1.0, 1.0, lift])
    assert float(average.weights(factors)[3]) == pytest.approx(max(share, 0.25))


def test_scores_are_those_of_the_average_of_clipped_updates():
    plain, clipped = averaging([1.0] * 4), averaging([1.0] * 4, torch.tensor([1.0, 1, 1, 0.1]))
    groups = [np.array([1.0, 1.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0, 1.0])]
    # The first and the last client alone: 2 on the diagonal against 4, or 0.4, off it.
    assert plain.scores(groups).macro_f1.tolist() == [1.0, 0.0]
    assert clipped.scores(groups).macro_f1.tolist() == [1.0, 1.0]


def scores_of(recall) -> Scores:
    rows = torch.tensor(recall, dtype=torch.float64)
    count = len(rows)
    return Scores(
        macro_f1=rows.mean(dim=1),
        recall=rows,
        confidence=rows,
        finite=torch.ones(count, dtype=torch.bool),
    )


def test_recall_far_below_the_others_is_below_the_limit_by_so_much():
    found = scores_of([[1.0], [1.0], [1.0], [1.0], [0.7], [0.1]])
    finite = np.ones(5, dtype=bool)
    beyond, gone = below_recall_limits(found, finite, np.array([100]), margin=0.2)
    # The limit is 1 less the margin: nobody above the median differs from it.
    np.testing.assert_allclose(beyond[:, 0], [-0.2, -0.2, -0.2, 0.1, 0.7])
    assert gone.tolist() == [False, False, False, False, True]


def test_a_spread_among_the_upper_half_widens_the_limit():
    narrow = scores_of([[1.0], [0.80], [0.80], [0.80], [0.80], [0.55]])
    wide = scores_of([[1.0], [1.0], [0.90], [0.80], [0.80], [0.55]])
    finite, many = np.ones(5, dtype=bool), np.array([10**6])
    found = [below_recall_limits(scores, finite, many, margin=0.1)[0] for scores in (narrow, wide)]
    assert float(found[0][4, 0]) == pytest.approx(0.8 - 0.1 - 0.55)
    # The upper half lies 0, 0, 0.1 and 0.2 above its lower end: the median of these is 0.05.
    width = 1.4826 * 0.05 * 2.3263478740
    assert float(found[1][4, 0]) == pytest.approx(0.8 - width - 0.55)


def test_unknown_classes_and_classes_of_few_examples_are_not_tested():
    found = scores_of([[0.7, 1.0], [0.9, 1.0], [0.9, 1.0], [0.0, 0.0]])
    beyond, gone = below_recall_limits(found, np.ones(3, dtype=bool), np.array([100, 4]), 0.1)
    assert (beyond == -1.0).all()
    assert not gone.any()


def test_the_upper_median_of_an_even_number_is_the_upper_of_the_middle_two():
    assert upper_median(np.array([4.0, 1.0, 3.0, 2.0])) == 3.0
    assert upper_median(np.array([5.0, 1.0, 3.0])) == 3.0
