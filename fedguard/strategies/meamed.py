"""Mean around the median (MeaMed)."""

from __future__ import annotations

from typing import Any, ClassVar

from fedguard.errors import check_assumed_malicious
from fedguard.strategies.base import RobustStrategy, uniform
from fedguard.strategies.toolkit.bounds import assumed_count
from fedguard.strategies.toolkit.coordinates import mean_around_median
from fedguard.strategies.toolkit.mixture import all_rows
from fedguard.updates import ClientUpdates, Verdict


class MeaMed(RobustStrategy):
    r"""In every coordinate average the n - f values nearest to the median.

    Xie, Koyejo and Gupta, "Generalized Byzantine-tolerant SGD", 2018. Every client weighs the
    same. Values that lie exactly as far from the median as the last one are averaged in, so that
    the order of clients decides nothing.

    Parameters
    ----------
    assumed_malicious : float
        Assumed fraction of malicious clients, 0 <= a < 0.5; f is its share of n, rounded up, and
        at most n - 1.

    Notes
    -----
    .. math::
       \delta_d = \frac{1}{n - f} \sum_{k \in M_d} \delta_{kd}, \qquad
       M_d = \text{the } n - f \text{ clients with the least }
       |\delta_{kd} - \operatorname{med}_j \delta_{jd}|

    where :math:`\delta_{kd}` is coordinate d of client k's update, n the clients and f the assumed
    bound.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies import MeaMed
    >>> from fedguard.updates import ClientUpdates
    >>> rows = [[1.0, 2.0], [1.2, 2.0], [0.8, 2.3], [90.0, -90.0]]
    >>> updates = ClientUpdates.from_matrix(torch.tensor(rows))
    >>> verdict = MeaMed(assumed_malicious=0.25).decide(updates)
    >>> [round(value, 3) for value in verdict.delta.tolist()]
    [1.0, 2.1]
    """

    properties: ClassVar[frozenset[str]] = frozenset({"robust", "translation", "scale"})
    traits = RobustStrategy.traits.but(blocks="columns")

    def __init__(self, *, assumed_malicious: float = 0.25, **base: Any) -> None:
        super().__init__(**base)
        check_assumed_malicious(assumed_malicious)
        self.assumed_malicious = assumed_malicious

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the mean around the median; see `RobustStrategy.combine`."""
        count = len(updates)
        nearest = max(count - assumed_count(self.assumed_malicious, count), 1)
        return Verdict(mean_around_median(all_rows(updates), nearest), uniform(count))
