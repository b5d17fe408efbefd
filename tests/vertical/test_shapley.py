from __future__ import annotations

import pytest
from vertical_worlds import config

from fedguard.errors import ConfigurationError
from fedguard.randomness import numpy_generator
from fedguard.vertical.auctions import BidPriceFirst, OptimalSubset
from fedguard.vertical.shapley import RetrainedValue, exact_shapley, sampled_shapley


def glove(coalition):
    """Players 1 and 2 hold left gloves, player 3 the only right one."""
    return float(3 in coalition and bool(coalition & {1, 2}))


def test_the_glove_game():
    found = exact_shapley([1, 2, 3], glove)
    assert found == pytest.approx({1: 1 / 6, 2: 1 / 6, 3: 4 / 6})


def test_sampling_agrees():
    found = sampled_shapley([1, 2, 3], glove, 4000, numpy_generator(0, 0, 0, "orders"))
    assert found == pytest.approx({1: 1 / 6, 2: 1 / 6, 3: 4 / 6}, abs=0.03)


def test_too_many_players_are_refused():
    with pytest.raises(ConfigurationError, match="8"):
        exact_shapley(range(9), glove)


def test_retrained_coalitions_are_worth_more_the_more_there_are():
    value = RetrainedValue(config(strategy="vfl", clients=3, rounds=4))
    empty, one, both = value(frozenset()), value(frozenset({1})), value(frozenset({1, 2}))
    assert empty < one < both
    assert value(frozenset({1})) == one
    efficient = sum(exact_shapley([1, 2], value).values())
    assert efficient == pytest.approx(both - empty)


def test_auctions_pick_what_they_promise():
    bids, values = {1: 60.0, 2: 10.0, 3: 35.0}, {1: 0.5, 2: 0.1, 3: 0.3}
    cheap, best = BidPriceFirst(budget=70), OptimalSubset(budget=70)
    assert cheap.winners(bids, values) == [2, 3]
    assert best.winners(bids, values) == [1, 2]
    assert OptimalSubset(budget=5).winners(bids, values) == []
