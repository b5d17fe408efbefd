"""Plain gradient ascent."""

from __future__ import annotations

from typing import ClassVar

import torch

from fedguard.config.requests import UnlearnRequest
from fedguard.unlearning.climbing import AscentSettings
from fedguard.unlearning.method import Erased, Situation, UnlearningMethod


class PlainAscent(UnlearningMethod):
    """Take the requester's model after ascent as it is, stopped where its rows are forgotten.

    ``theta' = theta + sum over requesters of (theta_u - theta)``. No ball, no cap, no held-out
    rows, no pruning.
    """

    asks: ClassVar[frozenset[str]] = frozenset({"ascent"})
    ascent_lr: ClassVar[float] = 0.02

    def settings(self, situation: Situation, request: UnlearnRequest) -> AscentSettings:
        """Return the configured ascent without its bounds."""
        return self.options.ascent.plain()

    def erase(self, situation: Situation) -> Erased:
        """Add the requesters' steps; see `UnlearningMethod.erase`."""
        step = torch.zeros_like(situation.vector)
        for delta in situation.climbed.values():
            step += delta
        return Erased(situation.vector + step)
