"""Coordinate-wise median."""

from __future__ import annotations

from typing import ClassVar

from fedguard.strategies.base import RobustStrategy, uniform
from fedguard.strategies.toolkit.coordinates import coordinate_median
from fedguard.strategies.toolkit.mixture import all_rows
from fedguard.updates import ClientUpdates, Verdict


class Median(RobustStrategy):
    r"""Take the median of the clients' updates in every coordinate.

    Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
    ICML 2018. Every client weighs the same: claimed numbers of examples are not used.

    Notes
    -----
    .. math::
       \delta_d = \operatorname{med}_k \delta_{kd}

    where :math:`\delta_{kd}` is coordinate d of client k's update; for an even number of clients
    the mean of the middle two.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies import Median
    >>> from fedguard.updates import ClientUpdates
    >>> rows = [[1.0, 2.0], [1.2, 2.0], [0.8, 2.3], [90.0, -90.0]]
    >>> updates = ClientUpdates.from_matrix(torch.tensor(rows))
    >>> verdict = Median().decide(updates)
    >>> [round(value, 3) for value in verdict.delta.tolist()]
    [1.1, 2.0]
    """

    properties: ClassVar[frozenset[str]] = frozenset({"robust", "translation", "scale"})
    traits = RobustStrategy.traits.but(blocks="columns")

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the median; see `RobustStrategy.combine`."""
        return Verdict(coordinate_median(all_rows(updates)), uniform(len(updates)))
