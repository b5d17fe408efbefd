"""Geometric median, also known as robust federated averaging (RFA)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from fedguard.errors import check_number
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.toolkit.averaging import median, rejections, with_buffer_median
from fedguard.strategies.toolkit.coordinates import coordinate_median
from fedguard.strategies.toolkit.distances import (
    distances_to_combination,
    gram_matrix,
    shared_gram,
)
from fedguard.strategies.toolkit.mixture import combination, trainable_rows
from fedguard.updates import ClientUpdates, Verdict

CANCELLATION = 1e-3
"""Distances below this share of the norms are measured again around a point nearby."""

_NOWHERE = 1e-150
"""Smallest distance that is divided by where most rows are the starting point itself."""


def weiszfeld(
    gram: Tensor, smoothing: float, max_iterations: int, tolerance: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return the smoothed geometric median as weights of the rows, and the rows' distances to it.

    ``w_i ~ 1 / max(nu m, |x_i - z|)``, ``z = sum_i w_i x_i``, from z = 0, with m the median of
    ``|x_i|``.

    Works on inner products alone: ``|x_i - z|^2 = G_ii - 2 (G w)_i + w' G w``.

    Parameters
    ----------
    gram : Tensor
        (K, K) float64 Gram matrix of the rows around the starting point.
    smoothing : float
        nu, smallest distance that is divided by, as a share of the rows' median norm.
    max_iterations : int
        Most steps to take.
    tolerance : float
        Stop once no weight moves by more than this.

    Returns
    -------
    tuple of Tensor
        (K,) weights that add up to 1, and (K,) distances.
    """
    weights = torch.zeros(len(gram), dtype=gram.dtype, device=gram.device)
    nearest = max(smoothing * float(median(gram.diagonal().sqrt())), _NOWHERE)
    for _ in range(max_iterations):
        inverse = 1.0 / distances_to_combination(gram, weights).clamp(min=nearest)
        previous, weights = weights, inverse / inverse.sum()
        if float((weights - previous).abs().max()) <= tolerance:
            break
    return weights, distances_to_combination(gram, weights)


class GeometricMedian(RobustStrategy):
    r"""Take the point with the smallest sum of distances to all updates.

    By the smoothed Weiszfeld iteration.

    Pillutla, Kakade and Harchaoui, "Robust Aggregation for Federated Learning", IEEE TSP 2022
    (RFA). Every client weighs the same; the paper weighs by the number of examples, which a
    client can claim freely. The iteration starts from the zero update rather than from the mean and
    runs until it stands still, on the (K, K) inner products that distance rules share; where what
    the updates have in common dwarfs what they differ in, on those around the coordinate-wise
    median, from there.

    Parameters
    ----------
    smoothing : float
        nu > 0, as a share of the median norm of the round: distances below it count as that.
    max_iterations : int
        Most Weiszfeld steps, at least 1.

    Notes
    -----
    .. math::
       \delta = \operatorname{argmin}_z \sum_k \lVert \delta_k - z \rVert

    .. math::
       z \leftarrow \frac{\sum_k \beta_k \delta_k}{\sum_k \beta_k}, \qquad
       \beta_k = \frac{1}{\max(\nu \operatorname{med}_j \lVert \delta_j \rVert,
       \lVert \delta_k - z \rVert)}

    from z = 0 until it stands still, where :math:`\delta_k` is client k's update and :math:`\nu`
    the `smoothing`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies import GeometricMedian
    >>> from fedguard.updates import ClientUpdates
    >>> rows = [[0.0, 0.0], [4.0, 0.0], [0.0, 3.0], [4.0, 3.0]]
    >>> updates = ClientUpdates.from_matrix(torch.tensor(rows))
    >>> verdict = GeometricMedian().decide(updates)
    >>> [round(value, 3) for value in verdict.delta.tolist()]
    [2.0, 1.5]
    """

    properties: ClassVar[frozenset[str]] = frozenset({"robust", "translation", "scale"})
    traits = RobustStrategy.traits.but(blocks="columns")

    def __init__(self, *, smoothing: float = 1e-6, max_iterations: int = 1000, **base: Any) -> None:
        super().__init__(**base)
        check_number("smoothing", smoothing, above=0.0)
        check_number("max_iterations", max_iterations, at_least=1)
        self.smoothing = smoothing
        self.max_iterations = max_iterations

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the geometric median; see `RobustStrategy.combine`."""
        rows = trainable_rows(updates)
        gram = shared_gram(updates)
        weights, distances = self._solve(gram)
        if float(median(distances)) < CANCELLATION * float(median(gram.diagonal().sqrt())):
            weights, distances = self._solve(gram_matrix(rows, coordinate_median(rows)))
        delta = with_buffer_median(updates, combination(rows, weights))
        reasons = rejections(updates, weights, lambda row: "infinitely far from the others")
        return Verdict(delta, weights, {"distance": distances}, reasons)

    def _solve(self, gram: Tensor) -> tuple[Tensor, Tensor]:
        return weiszfeld(gram, self.smoothing, self.max_iterations, 1e-12)
