"""SignGuard."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.cluster import MeanShift, estimate_bandwidth
from torch import Tensor

from fedguard.errors import check_number
from fedguard.randomness import SERVER, numpy_generator
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.toolkit.averaging import (
    average,
    clip_factors,
    equal_weights,
    median,
    rejections,
)
from fedguard.strategies.toolkit.density import largest_cluster
from fedguard.strategies.toolkit.distances import shared_norms
from fedguard.updates import ClientUpdates, Verdict


def sign_shares(rows: Tensor) -> Tensor:
    """Return (K, 3) float64: each row's shares of positive, zero and negative entries."""
    counts = [(rows > 0).sum(dim=1), (rows == 0).sum(dim=1), (rows < 0).sum(dim=1)]
    return torch.stack(counts, dim=1).to(torch.float64) / max(rows.shape[1], 1)


def _mean_shift(features: Tensor) -> Tensor:
    """Return (K,) labels of mean-shift clusters; one cluster where features hardly differ."""
    points = features.cpu().numpy()
    width = estimate_bandwidth(points, quantile=0.5) if len(points) > 2 else 0.0
    if width <= 1e-9:
        return torch.zeros(len(points), dtype=torch.int64)
    labels = MeanShift(bandwidth=width).fit(np.ascontiguousarray(points)).labels_
    return torch.from_numpy(labels.astype(np.int64))


class SignGuard(RobustStrategy):
    r"""Keep clients of usual norm whose signs are spread like the majority's.

    1. norm within `lower` and `upper` times the median;
    2. shares of positive, zero and negative signs on a random slice of coordinates, clustered by
       mean shift; the largest cluster is kept;
    3. mean of the clients that pass both, clipped to the median norm.

    Xu et al., "Byzantine-robust Federated Learning through Collaborative Malicious Gradient
    Filtering", ICDCS 2022. Clusters that tie in size are all kept; where no client passes both
    tests, those of usual norm are averaged.

    Parameters
    ----------
    lower, upper : float
        Bounds of the norm relative to the median, 0 <= lower <= 1 <= upper.
    coordinate_share : float
        Share of coordinates whose signs are counted, in (0, 1].

    Notes
    -----
    .. math::
       \delta = \frac{1}{|S|} \sum_{k \in S} \delta_k
       \min\left( 1, \frac{m}{\lVert \delta_k \rVert} \right), \qquad
       S = \left\{ k \in C : l \le \frac{\lVert \delta_k \rVert}{m} \le u \right\}, \qquad
       m = \operatorname{med}_j \lVert \delta_j \rVert

    where :math:`\delta_k` is client k's update, l and u are `lower` and `upper`, and C is the
    largest mean-shift cluster of the clients' shares of positive, zero and negative entries.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies import SignGuard
    >>> from fedguard.updates import ClientUpdates
    >>> rows = [[3.0, 4.0], [4.0, 3.0], [3.0, 4.0], [90.0, -90.0]]
    >>> updates = ClientUpdates.from_matrix(torch.tensor(rows))
    >>> verdict = SignGuard(coordinate_share=1.0).decide(updates)
    >>> [round(value, 3) for value in verdict.delta.tolist()]
    [3.333, 3.667]
    >>> verdict.reasons[3]
    'norm 127, median 5'
    """

    properties: ClassVar[frozenset[str]] = frozenset({"robust", "scale"})
    traits = RobustStrategy.traits.but(blocks="rows")

    def __init__(
        self,
        *,
        lower: float = 0.1,
        upper: float = 3.0,
        coordinate_share: float = 0.1,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        check_number("lower", lower, at_least=0.0, at_most=1.0)
        check_number("upper", upper, at_least=1.0)
        check_number("coordinate_share", coordinate_share, above=0.0, at_most=1.0)
        self.lower = lower
        self.upper = upper
        self.coordinate_share = coordinate_share

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the clipped mean of the filtered; see `RobustStrategy.combine`."""
        rows = updates.trainable
        norms = shared_norms(updates)
        bound = median(norms)
        usual = (norms >= self.lower * bound) & (norms <= self.upper * bound)
        shares = sign_shares(rows[:, self._slice(updates)])
        alike = largest_cluster(_mean_shift(shares))
        keep = usual & alike
        weights = equal_weights(keep if bool(keep.any()) else usual)
        reasons = rejections(
            updates,
            weights,
            lambda row: (
                "signs spread unlike the majority's"
                if bool(usual[row])
                else f"norm {norms[row]:.3g}, median {bound:.3g}"
            ),
        )
        delta = average(updates, weights, clip_factors(norms, bound))
        scores = {"norm": norms, "positive_share": shares[:, 0], "negative_share": shares[:, 2]}
        return Verdict(delta, weights, scores, reasons)

    def _slice(self, updates: ClientUpdates) -> Tensor:
        stream = numpy_generator(self.seed, updates.server_round, SERVER, "coordinates")
        total = updates.layout.num_trainable
        wanted = max(1, round(self.coordinate_share * total))
        return torch.from_numpy(stream.choice(total, size=wanted, replace=False))
