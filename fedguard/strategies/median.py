"""Coordinate-wise median."""

from __future__ import annotations

from typing import ClassVar

from fedguard.strategies.base import RobustStrategy, uniform
from fedguard.strategies.toolkit.coordinates import coordinate_median
from fedguard.strategies.toolkit.mixture import all_rows
from fedguard.updates import ClientUpdates, Verdict


class Median(RobustStrategy):
    """Take the median of the clients' updates in every coordinate.

    ``delta_d = median_k delta_{k,d}``; for an even number of clients the mean of the middle two.

    Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
    ICML 2018. Every client weighs the same: claimed numbers of examples are not used.
    """

    properties: ClassVar[frozenset[str]] = frozenset({"robust", "translation", "scale"})

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the median; see `RobustStrategy.combine`."""
        return Verdict(coordinate_median(all_rows(updates)), uniform(len(updates)))
