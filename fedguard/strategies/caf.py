"""Covariance-bound agnostic filter (CAF)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from fedguard.errors import check_assumed_malicious
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.toolkit.averaging import TIE, average, rejections
from fedguard.strategies.toolkit.bounds import assumed_count
from fedguard.strategies.toolkit.distances import shared_distances
from fedguard.strategies.toolkit.spectra import top_projections
from fedguard.updates import ClientUpdates, Verdict


def covariance_filter(squared: Tensor, bound: int) -> Tensor:
    """Return the (K,) weights with the smallest largest eigenvalue that the filter meets.

    Parameters
    ----------
    squared : Tensor
        (K, K) squared distances.
    bound : int
        f: the filter runs while the remaining weights add up to more than n - 2f.
    """
    count = len(squared)
    left = torch.ones(count, dtype=squared.dtype, device=squared.device)
    best, smallest = left / count, float("inf")
    while float(left.sum()) > max(count - 2 * bound, 0):
        value, spread = top_projections(squared, left / left.sum())
        if float(value) < smallest:
            smallest, best = float(value), left / left.sum()
        peak = torch.where(left > 0, spread, 0.0).max()
        if bound == 0 or float(peak) <= 0.0:
            break
        share = (1.0 - spread / peak).clamp(min=0.0)
        left = left * torch.where(share > TIE, share, 0.0)
    return best


class CAF(RobustStrategy):
    r"""Weigh clients down along the direction of largest spread until none stands out.

    1. mean and top eigenvector of the covariance under weights c, at first all 1;
    2. remember the mean if the top eigenvalue is the smallest so far;
    3. lower the weights by how far out clients are along the eigenvector; stop once the weights
       add up to n - 2f or less.

    Allouah, Guerraoui and Stephan, "Towards Trustworthy Federated Learning with Untrusted
    Participants", ICML 2025. Eigenvectors are exact, from the (K, K) distances, where a power
    iteration from a random start is common.

    Parameters
    ----------
    assumed_malicious : float
        Assumed fraction of malicious clients, 0 <= a < 0.5; f is its share of n, rounded up, and
        at most ``(n - 1) // 2``.

    Notes
    -----
    .. math::
       \mu = \sum_k p_k \delta_k, \qquad
       \Sigma = \sum_k p_k (\delta_k - \mu)(\delta_k - \mu)^\top, \qquad
       p_k = \frac{c_k}{\sum_j c_j}

    .. math::
       c_k \leftarrow c_k \left( 1 - \frac{\tau_k}{\max_{j : c_j > 0} \tau_j} \right), \qquad
       \tau_k = \langle \delta_k - \mu, v \rangle^2

    where :math:`\delta_k` is client k's update and v the eigenvector of :math:`\Sigma` with the
    largest eigenvalue; of all :math:`\mu` on the way the one under the smallest such eigenvalue is
    the answer.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies import CAF
    >>> from fedguard.updates import ClientUpdates
    >>> rows = [[1.0], [1.0], [1.0], [9.0]]
    >>> updates = ClientUpdates.from_matrix(torch.tensor(rows))
    >>> verdict = CAF(assumed_malicious=0.25).decide(updates)
    >>> [round(value, 3) for value in verdict.weights.tolist()]
    [0.333, 0.333, 0.333, 0.0]
    >>> [round(value, 3) for value in verdict.delta.tolist()]
    [1.0]
    """

    properties: ClassVar[frozenset[str]] = frozenset({"robust", "translation", "scale"})
    traits = RobustStrategy.traits.but(blocks="columns")

    def __init__(self, *, assumed_malicious: float = 0.25, **base: Any) -> None:
        super().__init__(**base)
        check_assumed_malicious(assumed_malicious)
        self.assumed_malicious = assumed_malicious

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the mean under the filter's best weights; see `RobustStrategy.combine`."""
        count = len(updates)
        bound = min(assumed_count(self.assumed_malicious, count), (count - 1) // 2)
        squared = shared_distances(updates)
        weights = covariance_filter(squared, bound)
        _, spread = top_projections(squared, weights)
        reasons = rejections(
            updates, weights, lambda row: "furthest out along the direction of largest spread"
        )
        return Verdict(average(updates, weights), weights, {"projection": spread}, reasons)
