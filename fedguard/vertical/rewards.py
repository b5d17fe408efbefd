"""What a party earns: its score, how the score moves with epsilon, and whole tokens of a budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LOSS_FLOOR = 1e-2
"""Losses below it are divided by it, so that a fitted model does not blow contributions up."""


def contribution(loss: float, loss_without: float) -> float:
    """Return C_i = 100 (L_-i - L) / L: percent by which the loss grows without party i."""
    return 100.0 * (loss_without - loss) / max(loss, LOSS_FLOOR)


def contribution_slope(loss: float, contributed: float) -> float:
    """Return dC_i / dL = -100 (1 + C_i / 100) / L for a fixed loss without party i."""
    if loss <= LOSS_FLOOR:
        return -100.0 / LOSS_FLOOR
    return -100.0 * (1.0 + contributed / 100.0) / loss


@dataclass(frozen=True)
class RewardRule:
    """The raw score of a party, R_i = alpha C_i c_i^(1/5) + privacy pay.

    The privacy pay is ``beta S / epsilon_i``, at most `privacy_cap` times the first term: the
    reading's one addition, without which a party that contributes nothing lives off its noise.

    Parameters
    ----------
    alpha, beta : float
        Weights of contribution and of privacy, >= 0.
    sensitivity : float
        L2 sensitivity S of a released row, > 0.
    privacy_cap : float or None
        Bound on privacy pay relative to the pay for contribution, >= 0; None for no bound.
    """

    alpha: float = 1.0
    beta: float = 1.0
    sensitivity: float = 2.0
    privacy_cap: float | None = 0.5

    def contribution_pay(self, contributed: float, cost_ratio: float) -> float:
        """Return alpha C_i c_i^(1/5)."""
        return self.alpha * contributed * math.pow(cost_ratio, 0.2)

    def privacy_pay(self, contributed: float, cost_ratio: float, epsilon: float) -> float:
        """Return beta S / epsilon_i, capped."""
        pay = self.beta * self.sensitivity / epsilon
        if self.privacy_cap is None:
            return pay
        return min(pay, self.privacy_cap * self.contribution_pay(max(contributed, 0.0), cost_ratio))

    def score(self, contributed: float, cost_ratio: float, epsilon: float) -> float:
        """Return R_i."""
        return self.contribution_pay(contributed, cost_ratio) + self.privacy_pay(
            contributed, cost_ratio, epsilon
        )

    def slope(
        self,
        *,
        loss: float,
        contributed: float,
        loss_slope: float,
        cost_ratio: float,
        epsilon: float,
    ) -> float:
        """Return dR_i / d epsilon_i.

        Parameters
        ----------
        loss, contributed : float
            The batch's L and C_i.
        loss_slope : float
            dL / d epsilon_i = <dL/dh~_i, dh~_i/depsilon_i>, which party i alone can compute.
        cost_ratio, epsilon : float
            The party's c_i and epsilon_i.
        """
        moved = contribution_slope(loss, contributed) * loss_slope
        pay_slope = self.alpha * math.pow(cost_ratio, 0.2) * moved
        privacy = -self.beta * self.sensitivity / epsilon**2
        pay = self.contribution_pay(max(contributed, 0.0), cost_ratio)
        if (
            self.privacy_cap is not None
            and self.beta * self.sensitivity / epsilon > self.privacy_cap * pay
        ):
            privacy = self.privacy_cap * pay_slope if contributed > 0 else 0.0
        return pay_slope + privacy


def largest_remainder(weights: Sequence[float], budget: int) -> list[int]:
    """Return whole tokens in proportion to `weights` whose sum is exactly `budget`.

    Every share is rounded down and the tokens left over go to the largest remainders, lower
    positions first among equals. Weights that are all zero share evenly.

    Parameters
    ----------
    weights : sequence of float
        Finite, >= 0.
    budget : int
        Tokens, >= 0.
    """
    w = np.asarray(weights, dtype=np.float64)
    if w.size == 0:
        return []
    if not np.isfinite(w).all() or (w < 0).any():
        raise ValueError("weights must be finite and not negative")
    w = np.ones_like(w) if w.max() == 0.0 else w / w.max()
    exact = w / w.sum() * budget
    tokens = np.floor(exact).astype(np.int64)
    left = budget - int(tokens.sum())
    order = np.argsort(-(exact - tokens), kind="stable")
    tokens[order[:left]] += 1
    return [int(token) for token in tokens]


def contribution_over_cost(
    contributions: Sequence[float], costs: Sequence[float], gamma: float
) -> list[float]:
    """Return s_i = C_i / (C_i + gamma B_i), the second reward rule; 0 where C_i is 0."""
    return [
        c / (c + gamma * b) if c > 0.0 else 0.0 for c, b in zip(contributions, costs, strict=True)
    ]


def gini(values: Sequence[float]) -> float:
    """Return the Gini coefficient of non-negative values; 0 is equal, towards 1 unequal."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    total = float(ordered.sum())
    if total <= 0.0 or not math.isfinite(total):
        return 0.0
    ranks = np.arange(1, len(ordered) + 1)
    return float(
        2.0 * (ranks * ordered).sum() / (len(ordered) * total) - (len(ordered) + 1) / len(ordered)
    )
