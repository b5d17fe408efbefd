"""`Shaping`: what a training rule makes of the loss of each row, in every executor alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedguard.errors import check_number

_LEAST = 1e-12
"""Least 1 - p whose power has a slope; below, the row is learnt and its slope is 0."""


@dataclass(frozen=True)
class Shaping:
    """Focal and class-balanced cross-entropy, as functions of each row's cross-entropy l.

    With p = exp(-l), the probability that the model gives the row's class, and n_y the rows of
    class y that the client holds,

    ``loss = w_y (1 - p)^focal l``, ``w_y ~ (1 - balance) / (1 - balance^n_y)``,

    scaled so that a client's weights are 1 on average over its rows, and with it the step size
    what it was. ``balance = 1`` is the limit ``w_y ~ 1 / n_y``: every class counts alike.

    Lin, Goyal, Girshick, He and Dollar, "Focal Loss for Dense Object Detection", ICCV 2017; Cui,
    Jia, Lin, Song and Belongie, "Class-Balanced Loss Based on Effective Number of Samples", CVPR
    2019, whose weights add up to the number of classes instead: a client that holds few classes
    would then train with another step size.

    Parameters
    ----------
    focal : float
        The focusing parameter, called gamma in its paper; 0 to 10, 0 for cross-entropy.
    balance : float
        Called beta in its paper, 0 to 1; 0 weighs all rows alike.
    """

    focal: float = 0.0
    balance: float = 0.0

    def __post_init__(self) -> None:
        check_number("focal", self.focal, at_least=0.0, at_most=10.0)
        check_number("balance", self.balance, at_least=0.0, at_most=1.0)

    @property
    def plain(self) -> bool:
        """Whether losses stay as they are."""
        return self.focal == 0.0 and self.balance == 0.0

    def row_weights(self, y: Tensor) -> Tensor | None:
        """Return the (N,) weights of a client's rows with labels `y`; None where all are 1."""
        if self.balance == 0.0 or not len(y):
            return None
        counts = torch.bincount(y).double()
        if self.balance == 1.0:
            weights = 1.0 / counts
        else:
            weights = (1.0 - self.balance) / (1.0 - self.balance**counts)
        found = weights[y]
        return (found / found.mean()).float()

    def of(self, losses: Tensor, weights: Tensor | None) -> Tensor:
        """Return shaped losses, of the shape of `losses`; differentiable."""
        if self.focal:
            losses = _far(losses).pow(self.focal) * losses
        return losses if weights is None else losses * weights

    def slope(self, losses: Tensor, weights: Tensor | None) -> Tensor | None:
        """Return the derivative of `of` by each loss; None where it is 1 everywhere."""
        if not self.focal:
            return weights
        far = _far(losses)
        power = far.pow(self.focal)
        rise = self.focal * far.pow(self.focal - 1.0) * losses * torch.exp(-losses)
        found = power + torch.where(far > _LEAST, rise, torch.zeros_like(rise))
        return found if weights is None else found * weights


def _far(losses: Tensor) -> Tensor:
    """Return 1 - p for each loss, away from 0 so that every power of it has a slope."""
    return (-torch.expm1(-losses)).clamp(min=_LEAST)


PLAIN = Shaping()
"""Losses as the task has them."""
