"""FoundationFL: synthetic copies of the update furthest inside the round, then a simple rule."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from fedguard.errors import check_assumed_malicious, check_choice, check_number
from fedguard.strategies.base import RobustStrategy, uniform
from fedguard.strategies.toolkit.averaging import TIE
from fedguard.strategies.toolkit.bounds import assumed_count
from fedguard.strategies.toolkit.coordinates import central_mean
from fedguard.strategies.toolkit.distances import row_norms
from fedguard.updates import ClientUpdates, Verdict


def extreme_scores(rows: Tensor) -> Tensor:
    """Return (K,) float64 distances of each row from the nearer of the two extreme vectors.

    The extremes are the largest and the smallest value of (K, T) rows in every coordinate.
    """
    low, high = rows.aminmax(dim=0)
    return torch.minimum(row_norms(rows, high), row_norms(rows, low))


class FoundationFL(RobustStrategy):
    r"""Add copies of the client furthest from both extremes, then take the median or trim.

    1. score: distance from the nearer of the coordinate-wise largest and smallest values over
       clients;
    2. append copies of the update with the highest score;
    3. coordinate-wise median, or mean without the b smallest and b largest values.

    A reading of Fang et al., "Do We Really Need to Design New Byzantine-robust Aggregation
    Rules?", NDSS 2025, from its formulas as others implement them. Clients that share the highest
    score share the copies, at least one each, so that the order of clients decides nothing. The
    copies belong to nobody: every client weighs the same. A client that sends its update turned
    round holds the largest value in some coordinates and the smallest in others, lies far from
    both extremes and is the one that is copied: sign flips gain by this rule.

    Parameters
    ----------
    base_rule : str
        ``"median"`` or ``"trimmed-mean"``.
    synthetic_share : float
        Copies per client, 0 to 1; 0.5 in the paper.
    assumed_malicious : float
        Assumed fraction of malicious clients, 0 <= a < 0.5; ``b = ceil(a K)``, of the trimmed
        mean alone.

    Notes
    -----
    .. math::
       s_k = \min\left( \lVert \delta_k - \delta^{\max} \rVert,
       \lVert \delta_k - \delta^{\min} \rVert \right), \qquad
       \delta^{\max}_d = \max_j \delta_{jd}, \quad \delta^{\min}_d = \min_j \delta_{jd}

    where :math:`\delta_k` is client k's update; the rule sees all :math:`\delta_k` and
    :math:`\lfloor s K \rfloor` copies of the one with the highest score, s the `synthetic_share`
    and K the clients.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies import FoundationFL
    >>> from fedguard.updates import ClientUpdates
    >>> rows = [[1.0, 2.0], [1.2, 2.0], [0.8, 2.3], [90.0, 90.0]]
    >>> updates = ClientUpdates.from_matrix(torch.tensor(rows))
    >>> verdict = FoundationFL().decide(updates)
    >>> [round(value, 3) for value in verdict.delta.tolist()]
    [1.2, 2.0]
    """

    properties: ClassVar[frozenset[str]] = frozenset({"robust", "translation", "scale"})

    def __init__(
        self,
        *,
        base_rule: Literal["median", "trimmed-mean"] = "median",
        synthetic_share: float = 0.5,
        assumed_malicious: float = 0.25,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        check_choice("base_rule", base_rule, ("median", "trimmed-mean"))
        check_number("synthetic_share", synthetic_share, at_least=0.0, at_most=1.0)
        check_assumed_malicious(assumed_malicious)
        self.base_rule = base_rule
        self.synthetic_share = synthetic_share
        self.assumed_malicious = assumed_malicious

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the rule's value with the copies; see `RobustStrategy.combine`."""
        count = len(updates)
        scores = extreme_scores(updates.trainable)
        index = self._with_copies(scores)
        total = len(index)
        if self.base_rule == "median":
            first, last = (total - 1) // 2, total // 2 + 1
        else:
            trim = min(assumed_count(self.assumed_malicious, count), (total - 1) // 2)
            first, last = trim, total - trim
        delta = central_mean(updates.deltas, first, last, index)
        return Verdict(delta, uniform(count), {"distance_to_extremes": scores})

    def _with_copies(self, scores: Tensor) -> Tensor:
        """Return the row numbers of all clients, and those of the copies after them."""
        count = len(scores)
        copies = int(self.synthetic_share * count)
        rows = torch.arange(count, device=scores.device)
        best = (scores >= scores.max() * (1.0 - TIE)).nonzero().flatten()
        each = max(copies // len(best), 1) if copies else 0
        return torch.cat([rows, best.repeat(each)])
