"""Centered clipping."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from fedguard.errors import check_number
from fedguard.strategies.averaging import clip_factors, median
from fedguard.strategies.base import RobustStrategy, uniform
from fedguard.strategies.coordinates import coordinate_median
from fedguard.strategies.distances import row_norms
from fedguard.updates import ClientUpdates, Verdict


class CenteredClipping(RobustStrategy):
    """Average the updates after clipping their distance from the last aggregate.

    ``v <- v + (1/n) sum_k (delta_k - v) min(1, tau / |delta_k - v|)``, from the last round's v.

    Karimireddy, He and Jaggi, "Learning from History for Byzantine Robust Optimization", ICML
    2021. The paper's tau is a constant to be tuned; left out, it is the median of the distances
    ``|delta_k - v|`` of each step, which needs no tuning and follows the training.

    Parameters
    ----------
    clip_radius : float, optional
        tau > 0, in units of an update's norm; the median distance if left out.
    iterations : int
        Clipping steps per round, at least 1.
    """

    properties: ClassVar[frozenset[str]] = frozenset({"robust", "scale"})

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
        rows = updates.trainable
        center = torch.zeros_like(rows[0]) if self._center is None else self._center
        distances = row_norms(rows, center)
        first = distances
        for _ in range(self.iterations):
            radius = median(distances) if self.clip_radius is None else self.clip_radius
            share = (clip_factors(distances, radius) / len(rows)).to(torch.float32)
            center = (1.0 - share.sum()) * center + share @ rows
            distances = row_norms(rows, center)
        self._center = center
        delta = coordinate_median(updates.deltas)
        delta[: len(center)] = center
        return Verdict(delta, uniform(len(updates)), {"distance": first})

    def reset(self) -> None:
        """Forget the last aggregate."""
        self._center = None

    def state(self) -> dict[str, Tensor]:
        """Return the last aggregate."""
        return {} if self._center is None else {"center": self._center}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take the last aggregate back."""
        self._center = state.get("center")
