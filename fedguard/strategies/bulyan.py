"""Bulyan."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from fedguard.errors import check_assumed_malicious
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.krum import krum_scores
from fedguard.strategies.toolkit.averaging import (
    equal_weights,
    lowest,
    rejections,
    with_buffer_median,
)
from fedguard.strategies.toolkit.bounds import assumed_count
from fedguard.strategies.toolkit.coordinates import mean_around_median
from fedguard.strategies.toolkit.distances import shared_distances
from fedguard.strategies.toolkit.mixture import trainable_rows
from fedguard.updates import ClientUpdates, Verdict


def repeated_krum(squared: Tensor, bound: int, wanted: int) -> Tensor:
    """Return the (K,) mask of the clients that Krum picks one after the other.

    Parameters
    ----------
    squared : Tensor
        (K, K) squared distances.
    bound : int
        The bound f that Krum is run with.
    wanted : int
        How many to pick; clients that tie are picked together, so it can be more.
    """
    left = torch.arange(len(squared), device=squared.device)
    picked = torch.zeros(len(squared), dtype=torch.bool, device=squared.device)
    while int(picked.sum()) < wanted:
        best = lowest(krum_scores(squared[left[:, None], left], bound), 1)
        picked[left[best]] = True
        left = left[~best]
    return picked


class Bulyan(RobustStrategy):
    r"""Pick n - 2f updates by repeated Krum, then average around their median.

    1. ``S``: run Krum, move its pick to S, repeat on the rest until ``theta = n - 2f`` are picked;
    2. in every coordinate average the ``beta = theta - 2f`` values of S nearest to its median.

    El Mhamdi, Guerraoui and Rouault, "The Hidden Vulnerability of Distributed Learning in
    Byzantium", ICML 2018. The guarantee asks for n >= 4f + 3. Below that f is lowered to what n
    allows, ``(n - 3) // 4``, and at 0 the rule is the plain mean of all but its ties: use another
    rule for fewer than 7 clients. Clients whose Krum scores tie are picked together.

    Parameters
    ----------
    assumed_malicious : float
        Assumed fraction of malicious clients, 0 <= a < 0.5; f is its share of n, rounded up.

    Notes
    -----
    .. math::
       \delta_d = \frac{1}{\beta} \sum_{k \in M_d} \delta_{kd}, \qquad
       M_d = \text{the } \beta \text{ of } S \text{ with the least }
       |\delta_{kd} - \operatorname{med}_{j \in S} \delta_{jd}|

    where :math:`\delta_{kd}` is coordinate d of client k's update, n the clients,
    :math:`f = \min(\lceil a n \rceil, \lfloor (n - 3) / 4 \rfloor)` the assumed bound, S the
    :math:`\theta = n - 2 f` picks of repeated `Krum`, and :math:`\beta = \theta - 2 f`, at least 1.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies import Bulyan
    >>> from fedguard.updates import ClientUpdates
    >>> rows = [[1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [99.0]]
    >>> updates = ClientUpdates.from_matrix(torch.tensor(rows))
    >>> verdict = Bulyan(assumed_malicious=0.1).decide(updates)
    >>> [round(value, 3) for value in verdict.delta.tolist()]
    [3.5]
    >>> sorted(verdict.reasons)
    [6]
    """

    properties: ClassVar[frozenset[str]] = frozenset({"robust", "translation", "scale"})
    traits = RobustStrategy.traits.but(blocks="columns")

    def __init__(self, *, assumed_malicious: float = 0.2, **base: Any) -> None:
        super().__init__(**base)
        check_assumed_malicious(assumed_malicious)
        self.assumed_malicious = assumed_malicious

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the mean around the median of the picked; see `RobustStrategy.combine`."""
        count = len(updates)
        bound = min(assumed_count(self.assumed_malicious, count), max((count - 3) // 4, 0))
        squared = shared_distances(updates)
        picked = repeated_krum(squared, bound, count - 2 * bound)
        chosen = picked.nonzero().flatten()
        nearest = max(len(chosen) - 2 * bound, 1)
        middle = mean_around_median(trainable_rows(updates), nearest, chosen)
        delta = with_buffer_median(updates, middle)
        weights = equal_weights(picked)
        scores = krum_scores(squared, bound)
        reasons = rejections(
            updates, weights, lambda row: f"not among the {len(chosen)} picks of repeated Krum"
        )
        return Verdict(delta, weights, {"krum_score": scores}, reasons)
