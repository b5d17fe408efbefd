"""Shapley values: the yardstick that a reward is held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import combinations
from math import comb

import numpy as np
import torch

from fedguard.config import SimulationConfig
from fedguard.errors import ConfigurationError
from fedguard.vertical.exchange import FusedExchange
from fedguard.vertical.parts import World

Coalition = frozenset[int]
Value = Callable[[Coalition], float]

MOST_EXACT = 8
"""Most players whose every coalition is tried: 2^8 = 256 of them."""


def exact_shapley(players: Sequence[int], value: Value) -> dict[int, float]:
    """Return each player's mean marginal value over all orders, from all 2^n coalitions.

    ``phi_i = sum_S |S|! (n - |S| - 1)! / n! (v(S + i) - v(S))``. Shapley, "A value for n-person
    games", Contributions to the Theory of Games 1953.

    Parameters
    ----------
    players : sequence of int
        At most `MOST_EXACT`.
    value : callable
        Value of a coalition; called once for each.
    """
    n = len(players)
    if n > MOST_EXACT:
        raise ConfigurationError("players", n, f"at most {MOST_EXACT}; sample permutations instead")
    known = lru_cache(maxsize=None)(value)
    found = dict.fromkeys(players, 0.0)
    for player in players:
        others = [p for p in players if p != player]
        for size in range(n):
            weight = 1.0 / (n * comb(n - 1, size))
            for chosen in combinations(others, size):
                without = frozenset(chosen)
                found[player] += weight * (known(without | {player}) - known(without))
    return found


def sampled_shapley(
    players: Sequence[int], value: Value, permutations: int, stream: np.random.Generator
) -> dict[int, float]:
    """Return Shapley values estimated from random orders of the players; unbiased."""
    known = lru_cache(maxsize=None)(value)
    found = dict.fromkeys(players, 0.0)
    for _ in range(permutations):
        before: Coalition = frozenset()
        for player in stream.permutation(list(players)).tolist():
            after = before | {player}
            found[player] += (known(after) - known(before)) / permutations
            before = after
    return found


class RetrainedValue:
    """What a coalition of passive parties is worth: test accuracy of training with it alone.

    Every call trains the configuration's strategy from scratch; the label holder's own party is
    always in. The absent parties' blocks are zeros from the first batch on.

    Parameters
    ----------
    config : SimulationConfig
        A vertical run, best with strategy ``vfl``.
    """

    def __init__(self, config: SimulationConfig) -> None:
        self.config = config
        self.world = World(config, torch.device("cpu"))

    def __call__(self, coalition: Coalition) -> float:
        """Return the coalition's accuracy, 0 to 1."""
        world, config = self.world, self.config
        strategy, holder = world.start_again(), world.label_holder()
        strategy.bind(holder, world.schedule(), config.clients)
        absent = set(range(1, config.clients)) - coalition
        strategy.left = dict.fromkeys(absent, "not in the coalition")
        exchange = FusedExchange([world.party(p) for p in range(config.clients)])
        strategy.train(exchange, config.rounds)
        blocks = exchange.embed_test(strategy.active, config.rounds)
        return holder.evaluate(blocks).accuracy
