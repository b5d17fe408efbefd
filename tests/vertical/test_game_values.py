"""Shapley values against all orders of the players, and what an axiom says of them."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from fedguard.randomness import numpy_generator
from fedguard.vertical.shapley import exact_shapley, sampled_shapley


def random_game(players, seed):
    """Return a value drawn for every coalition, the empty one included."""
    stream = numpy_generator(seed, 0, 0, "game")
    drawn = {}

    def value(coalition):
        return drawn[coalition]

    for mask in range(2 ** len(players)):
        members = frozenset(p for place, p in enumerate(players) if mask >> place & 1)
        drawn[members] = float(stream.normal())
    return value


def over_all_orders(players, value):
    found = dict.fromkeys(players, 0.0)
    orders = list(permutations(players))
    for order in orders:
        for place, player in enumerate(order):
            before = frozenset(order[:place])
            found[player] += (value(before | {player}) - value(before)) / len(orders)
    return found


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6])
def test_the_value_is_the_mean_over_all_orders(count):
    players = [3 * p + 1 for p in range(count)]
    for seed in range(3):
        game = random_game(players, seed)
        assert exact_shapley(players, game) == pytest.approx(over_all_orders(players, game))


def test_every_coalition_is_asked_once():
    asked = []

    def value(coalition):
        asked.append(coalition)
        return float(len(coalition))

    exact_shapley([1, 2, 3, 4], value)
    assert len(asked) == len(set(asked)) == 16
    asked.clear()
    sampled_shapley([1, 2, 3, 4], value, 200, numpy_generator(0, 0, 0, "orders"))
    assert len(asked) == len(set(asked)) <= 16


@pytest.mark.parametrize("seed", range(3))
def test_axioms(seed):
    players = [1, 2, 3, 4]
    one, other = random_game(players, seed), random_game(players, seed + 100)
    first, second = exact_shapley(players, one), exact_shapley(players, other)
    assert sum(first.values()) == pytest.approx(one(frozenset(players)) - one(frozenset()))
    both = exact_shapley(players, lambda who: 2.0 * one(who) - other(who))
    assert both == pytest.approx({p: 2.0 * first[p] - second[p] for p in players})
    idle = exact_shapley(players, lambda who: one(who - {4}))
    assert idle[4] == pytest.approx(0.0)
    twins = exact_shapley(players, lambda who: one(frozenset([1]) if who & {1, 2} else frozenset()))
    assert twins[1] == pytest.approx(twins[2])
    assert twins[3] == pytest.approx(0.0)


def test_every_sampled_order_is_efficient():
    players = [1, 2, 3, 4, 5]
    game = random_game(players, 7)
    for count in (1, 3):
        found = sampled_shapley(players, game, count, numpy_generator(1, 0, 0, "orders"))
        assert sum(found.values()) == pytest.approx(game(frozenset(players)) - game(frozenset()))


def test_sampling_is_unbiased_with_the_spread_of_its_orders():
    """The mean of many estimates stays within four standard errors of the exact value."""
    players = [1, 2, 3, 4]
    game = random_game(players, 3)
    exact = exact_shapley(players, game)
    stream = numpy_generator(2, 0, 0, "orders")
    draws = [sampled_shapley(players, game, 1, stream) for _ in range(1500)]
    for player in players:
        values = np.array([one[player] for one in draws])
        error = abs(values.mean() - exact[player])
        assert error < 4.0 * values.std() / np.sqrt(len(values))
        assert values.std() > 0.1
