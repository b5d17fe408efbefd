"""What differences between defences are worth: paired tests, agreement of rankings, a front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.05
"""Corrected p-value below which a difference is called shown."""
EXACT_UP_TO = 200
"""Most pairs whose test is exact."""


@dataclass(frozen=True)
class PairedTest:
    """Wilcoxon's signed-rank test of one pair of methods.

    Attributes
    ----------
    n : int
        Pairs, those without a difference included.
    mean_difference : float
        First method minus second; nan without a pair.
    p : float
        Two-sided p-value; 1 where no pair differs.
    corrected : float
        After Holm's correction over the family of tests.
    smallest : float
        The smallest corrected p-value that `n` pairs can give in this family.
    """

    n: int
    mean_difference: float
    p: float
    corrected: float
    smallest: float

    @property
    def enough(self) -> bool:
        """Whether there are pairs enough for any difference to be shown."""
        return self.smallest < LEVEL

    @property
    def verdict(self) -> str:
        """What the test says, in words."""
        if not self.enough:
            return "too few pairs to say anything"
        if self.corrected >= LEVEL:
            return "no difference shown"
        return "higher" if self.mean_difference > 0 else "lower"


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values after Holm's step-down correction.

    Sorted in ascending order, ``p_(i)`` becomes ``max_{j <= i} min(1, (m - j + 1) p_(j))``.

    Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
    Statistics 1979.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(factors * p[order]))
    return [float(value) for value in corrected]


def signed_rank(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test; 1 where nothing differs.

    Pairs without a difference are left out, as Wilcoxon did. Up to `EXACT_UP_TO` pairs the null
    distribution is exact, ties included: each rank counts for either side with probability 1/2, so
    the distribution of the positive ranks' sum is a product of such steps. SciPy tries every
    pattern of signs where there are ties, which takes seconds per test; it is asked beyond.

    Wilcoxon, Individual comparisons by ranking methods, Biometrics Bulletin 1945.
    """
    values = np.asarray(differences, dtype=float)
    values = values[values != 0]
    if len(values) == 0:
        return 1.0
    if len(values) > EXACT_UP_TO:
        return float(stats.wilcoxon(values, method="approx").pvalue)
    doubled = np.rint(2 * stats.rankdata(np.abs(values))).astype(int)  # tied ranks are halves
    chance = np.zeros(int(doubled.sum()) + 1)
    chance[0] = 1.0
    for rank in doubled:
        shifted = np.concatenate([np.zeros(rank), chance[:-rank]])
        chance = (chance + shifted) / 2
    observed = int(doubled[values > 0].sum())
    tail = min(chance[: observed + 1].sum(), chance[observed:].sum())
    return float(min(1.0, 2 * tail))


def paired_tests(pairs: Sequence[Sequence[float]]) -> list[PairedTest]:
    """Test a family of paired differences, with Holm's correction over the family.

    Parameters
    ----------
    pairs : sequence of sequence of float
        For each test of the family, the differences of its pairs.

    Returns
    -------
    list of PairedTest
        In the order given.
    """
    p_values = [signed_rank(differences) for differences in pairs]
    return [
        PairedTest(
            n=len(differences),
            mean_difference=float(np.mean(differences)) if len(differences) else float("nan"),
            p=p,
            corrected=corrected,
            smallest=min(1.0, len(pairs) * 2.0 ** (1 - len(differences))),
        )
        for differences, p, corrected in zip(pairs, p_values, holm(p_values), strict=True)
    ]


@dataclass(frozen=True)
class Agreement:
    """How well blocks agree on the ranking of methods.

    Attributes
    ----------
    blocks : int
        Rankings.
    mean_ranks : list of float
        Per method; 1 is best.
    w : float or None
        Kendall's coefficient of concordance: 0 no agreement, 1 the same ranking everywhere; None
        where it is not defined (fewer than 2 blocks or methods, or ties throughout).
    p : float or None
        Friedman's test that all methods are alike; None below 3 methods or 2 blocks.
    """

    blocks: int
    mean_ranks: list[float]
    w: float | None
    p: float | None


def agreement(values: np.ndarray) -> Agreement:
    """Return Kendall's W over blocks, ties corrected, and Friedman's test.

    ``W = (12 S) / (b^2 (k^3 - k) - b sum T)`` with S the squared deviations of the methods' rank
    sums from their mean, b blocks, k methods and ``T = sum (t^3 - t)`` over the ties of a block.

    Parameters
    ----------
    values : ndarray
        (blocks, methods); higher is better.
    """
    blocks, methods = values.shape
    if blocks == 0 or methods == 0:
        return Agreement(blocks, [], None, None)
    ranks = stats.rankdata(-values, axis=1)
    mean_ranks = [float(rank) for rank in ranks.mean(axis=0)]
    if blocks < 2 or methods < 2:
        return Agreement(blocks, mean_ranks, None, None)
    sums = ranks.sum(axis=0)
    ties = 0.0
    for row in ranks:
        _, counts = np.unique(row, return_counts=True)
        ties += float((counts**3 - counts).sum())
    room = blocks**2 * (methods**3 - methods) - blocks * ties
    if room <= 0:
        return Agreement(blocks, mean_ranks, None, None)
    w = float(12 * ((sums - sums.mean()) ** 2).sum() / room)
    p = None
    if methods >= 3:
        p = float(stats.friedmanchisquare(*values.T).pvalue)
    return Agreement(blocks, mean_ranks, w, p)


def pareto_front(costs: np.ndarray) -> list[bool]:
    """Return which rows no other row beats.

    A row is beaten by one that is nowhere higher and somewhere lower.

    Parameters
    ----------
    costs : ndarray
        (rows, criteria); lower is better in each.
    """
    front = []
    for row in costs:
        beaten = np.all(costs <= row, axis=1) & np.any(costs < row, axis=1)
        front.append(not bool(beaten.any()))
    return front
