"""Coordinate-wise trimmed mean."""

from __future__ import annotations

from typing import Any, ClassVar

from fedguard.errors import check_assumed_malicious
from fedguard.strategies.base import RobustStrategy, uniform
from fedguard.strategies.toolkit.bounds import assumed_count
from fedguard.strategies.toolkit.coordinates import central_mean
from fedguard.strategies.toolkit.mixture import all_rows
from fedguard.updates import ClientUpdates, Verdict


class TrimmedMean(RobustStrategy):
    r"""In every coordinate drop the b smallest and b largest values and average the rest.

    Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
    ICML 2018. Every client weighs the same.

    Parameters
    ----------
    assumed_malicious : float
        Assumed fraction of malicious clients, 0 <= a < 0.5.

    Notes
    -----
    .. math::
       \delta_d = \frac{1}{n - 2 b} \sum_{r=b+1}^{n-b} \delta_{(r)d}, \qquad
       b = \min\left( \lceil a n \rceil, \left\lfloor \frac{n - 1}{2} \right\rfloor \right)

    where :math:`\delta_{(r)d}` is the r-th smallest value of coordinate d over the n clients, and a
    the `assumed_malicious` fraction.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies import TrimmedMean
    >>> from fedguard.updates import ClientUpdates
    >>> rows = [[1.0, 2.0], [1.2, 2.0], [0.8, 2.3], [90.0, -90.0]]
    >>> updates = ClientUpdates.from_matrix(torch.tensor(rows))
    >>> verdict = TrimmedMean(assumed_malicious=0.25).decide(updates)
    >>> [round(value, 3) for value in verdict.delta.tolist()]
    [1.1, 2.0]
    """

    properties: ClassVar[frozenset[str]] = frozenset({"robust", "translation", "scale"})
    traits = RobustStrategy.traits.but(blocks="columns")

    def __init__(self, *, assumed_malicious: float = 0.25, **base: Any) -> None:
        super().__init__(**base)
        check_assumed_malicious(assumed_malicious)
        self.assumed_malicious = assumed_malicious

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the trimmed mean; see `RobustStrategy.combine`."""
        count = len(updates)
        trim = min(assumed_count(self.assumed_malicious, count), (count - 1) // 2)
        return Verdict(central_mean(all_rows(updates), trim, count - trim), uniform(count))
