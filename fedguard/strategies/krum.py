"""Krum and Multi-Krum."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedguard.errors import check_assumed_malicious, check_number
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.toolkit.averaging import average, equal_weights, lowest, rejections
from fedguard.strategies.toolkit.bounds import assumed_count
from fedguard.strategies.toolkit.distances import shared_distances
from fedguard.updates import ClientUpdates, Verdict


def krum_scores(squared: Tensor, bound: int) -> Tensor:
    """Return each client's Krum score: the sum of its n - f - 2 smallest squared distances.

    Parameters
    ----------
    squared : Tensor
        (K, K) squared distances with a zero diagonal.
    bound : int
        Assumed number f of malicious clients. At least one neighbour counts, also where
        n - f - 2 < 1.
    """
    count = len(squared)
    if count == 1:
        return torch.zeros(1, dtype=squared.dtype)
    neighbours = min(max(count - bound - 2, 1), count - 1)
    others = squared.clone().fill_diagonal_(float("inf"))
    return others.topk(neighbours, dim=1, largest=False).values.sum(dim=1)


class KrumRule(RobustStrategy):
    """What Krum and Multi-Krum share: the average of the updates with the lowest Krum scores.

    Parameters
    ----------
    assumed_malicious : float
        Assumed fraction of malicious clients, 0 <= a < 0.5; f is its share of n, rounded up.
    """

    properties: ClassVar[frozenset[str]] = frozenset({"robust", "translation", "scale"})
    traits = RobustStrategy.traits.but(blocks="columns")

    def __init__(self, *, assumed_malicious: float = 0.25, **base: Any) -> None:
        super().__init__(**base)
        check_assumed_malicious(assumed_malicious)
        self.assumed_malicious = assumed_malicious

    @abstractmethod
    def wanted(self, count: int, bound: int) -> int:
        """Return how many of `count` updates are averaged under the bound f."""

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the mean of the selected updates; see `RobustStrategy.combine`."""
        count = len(updates)
        bound = assumed_count(self.assumed_malicious, count)
        scores = krum_scores(shared_distances(updates), bound)
        keep = lowest(scores, self.wanted(count, bound))
        weights = equal_weights(keep)
        limit = float(scores[keep].max())
        reasons = rejections(
            updates, weights, lambda row: f"Krum score {scores[row]:.3g} above {limit:.3g}"
        )
        return Verdict(average(updates, weights), weights, {"krum_score": scores}, reasons)


class MultiKrum(KrumRule):
    r"""Average the m updates with the lowest Krum scores.

    Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
    NeurIPS 2017. The guarantee asks for n >= 2f + 3; below that the rule still answers, with at
    least one neighbour. Updates whose score ties with the last selected one are selected too, so
    that the order of clients decides nothing. Distances are taken on deltas of the trainable
    parameters and accumulated in float64.

    Parameters
    ----------
    assumed_malicious : float
        Assumed fraction of malicious clients, 0 <= a < 0.5; f is its share of n, rounded up.
    num_selected : int, optional
        m, at least 1; n - f if left out.

    Notes
    -----
    .. math::
       \delta = \frac{1}{|S|} \sum_{i \in S} \delta_i, \qquad
       s_i = \sum_{j \in N_i} \lVert \delta_i - \delta_j \rVert^2

    where :math:`\delta_i` is client i's update, :math:`N_i` the n - f - 2 others nearest to i, n
    the clients, f the assumed bound, and S the m clients with the lowest score :math:`s_i`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies import MultiKrum
    >>> from fedguard.updates import ClientUpdates
    >>> rows = [[1.0, 2.0], [1.2, 2.0], [0.8, 2.3], [90.0, -90.0]]
    >>> updates = ClientUpdates.from_matrix(torch.tensor(rows))
    >>> verdict = MultiKrum(assumed_malicious=0.25).decide(updates)
    >>> [round(value, 3) for value in verdict.delta.tolist()]
    [1.0, 2.1]
    >>> sorted(verdict.reasons)
    [3]
    """

    def __init__(self, *, num_selected: int | None = None, **krum: Any) -> None:
        super().__init__(**krum)
        if num_selected is not None:
            check_number("num_selected", num_selected, at_least=1)
        self.num_selected = num_selected

    def wanted(self, count: int, bound: int) -> int:
        """Return m; see `KrumRule.wanted`."""
        return count - bound if self.num_selected is None else self.num_selected


class Krum(KrumRule):
    r"""Take the one update that lies closest to its n - f - 2 nearest neighbours.

    The score is that of `MultiKrum`; exact ties (copies) are averaged.

    Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
    NeurIPS 2017. It keeps one client whoever attacks, also where the honest are dissimilar
    (``"dissimilar-exempt"``).

    Parameters
    ----------
    assumed_malicious : float
        Assumed fraction of malicious clients, 0 <= a < 0.5; f is its share of n, rounded up.

    Notes
    -----
    .. math::
       \delta = \delta_{i^*}, \qquad
       i^* = \operatorname{argmin}_i \sum_{j \in N_i} \lVert \delta_i - \delta_j \rVert^2

    where :math:`\delta_i` is client i's update, :math:`N_i` the n - f - 2 others nearest to i (at
    least one), n the clients and f the assumed bound.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies import Krum
    >>> from fedguard.updates import ClientUpdates
    >>> rows = [[0.0, 0.0], [1.0, 0.0], [3.0, 0.0], [90.0, 0.0], [1.5, 0.0]]
    >>> updates = ClientUpdates.from_matrix(torch.tensor(rows))
    >>> verdict = Krum(assumed_malicious=0.25).decide(updates)
    >>> [round(value, 3) for value in verdict.delta.tolist()]
    [1.25, 0.0]
    """

    properties: ClassVar[frozenset[str]] = KrumRule.properties | {"dissimilar-exempt"}

    def wanted(self, count: int, bound: int) -> int:
        """Return 1; see `KrumRule.wanted`."""
        return 1
