"""Centered clipping."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from fedguard.errors import check_number
from fedguard.strategies.base import RobustStrategy, uniform
from fedguard.strategies.toolkit.averaging import clip_factors, median, with_buffer_median
from fedguard.strategies.toolkit.distances import (
    distances_to_combination,
    gram_matrix,
    row_norms,
    shared_gram,
    shared_norms,
)
from fedguard.strategies.toolkit.mixture import combination, trainable_rows
from fedguard.updates import ClientUpdates, Verdict


class CenteredClipping(RobustStrategy):
    r"""Average the updates after clipping their distance from the last aggregate.

    Karimireddy, He and Jaggi, "Learning from History for Byzantine Robust Optimization", ICML
    2021. The paper's tau is a constant to be tuned; left out, it is the median of the distances
    ``|delta_k - v|`` of each step, which needs no tuning and follows the training.

    Parameters
    ----------
    clip_radius : float, optional
        tau > 0, in units of an update's norm; the median distance if left out.
    iterations : int
        Clipping steps per round, at least 1.

    Notes
    -----
    .. math::
       v \leftarrow v + \frac{1}{n} \sum_{k=1}^{n} (\delta_k - v)
       \min\left( 1, \frac{\tau}{\lVert \delta_k - v \rVert} \right)

    from the last round's v (0 at first), `iterations` times, where :math:`\delta_k` is client k's
    update, n the clients and :math:`\tau` the `clip_radius`; the new v is the aggregate.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies import CenteredClipping
    >>> from fedguard.updates import ClientUpdates
    >>> rows = [[1.0, 0.0], [0.0, 2.0], [60.0, 80.0]]
    >>> updates = ClientUpdates.from_matrix(torch.tensor(rows))
    >>> verdict = CenteredClipping(clip_radius=2.0).decide(updates)
    >>> [round(value, 3) for value in verdict.delta.tolist()]
    [0.733, 1.2]
    """

    properties: ClassVar[frozenset[str]] = frozenset({"robust", "scale"})
    traits = RobustStrategy.traits.but(blocks="columns")

    def __init__(
        self, *, clip_radius: float | None = None, iterations: int = 1, **base: Any
    ) -> None:
        super().__init__(**base)
        if clip_radius is not None:
            check_number("clip_radius", clip_radius, above=0.0)
        check_number("iterations", iterations, at_least=1)
        self.clip_radius = clip_radius
        self.iterations = iterations
        self._center: Tensor | None = None

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the clipped mean around the last aggregate; see `RobustStrategy.combine`."""
        rows, start = trainable_rows(updates), self._center
        first = shared_norms(updates) if start is None else row_norms(rows, start)
        shares = self._step(first, torch.zeros_like(first))
        if self.iterations > 1:
            gram = shared_gram(updates) if start is None else gram_matrix(rows, start)
            for _ in range(self.iterations - 1):
                shares = self._step(distances_to_combination(gram, shares), shares)
        center = combination(rows, shares)
        if start is not None:
            center += (1.0 - float(shares.sum())) * start
        self._center = center.clone()
        delta = with_buffer_median(updates, center)
        return Verdict(delta, uniform(len(updates)), {"distance": first})

    def _step(self, distances: Tensor, shares: Tensor) -> Tensor:
        """Return the (K,) shares a of ``v = v_0 + sum_k a_k (delta_k - v_0)`` after one more step.

        The steps need no more of the updates than the (K,) distances from the point before, which
        follow from the inner products of ``delta_k - v_0``.
        """
        radius = median(distances) if self.clip_radius is None else self.clip_radius
        pull = clip_factors(distances, radius) / len(distances)
        return (1.0 - pull.sum()) * shares + pull

    def reset(self) -> None:
        """Forget the last aggregate."""
        self._center = None

    def state(self) -> dict[str, Tensor]:
        """Return the last aggregate."""
        return {} if self._center is None else {"center": self._center}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take the last aggregate back."""
        self._center = state.get("center")
