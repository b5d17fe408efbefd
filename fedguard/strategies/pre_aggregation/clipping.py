"""Clipping to a fixed norm."""

from __future__ import annotations

import torch
from torch import Tensor

from fedguard.errors import check_number
from fedguard.strategies.pre_aggregation.base import PreAggregation
from fedguard.strategies.toolkit.averaging import clip_factors
from fedguard.strategies.toolkit.distances import shared_norms
from fedguard.updates import ClientUpdates


class Clipping(PreAggregation):
    r"""Scale updates down to a fixed norm.

    Parameters
    ----------
    max_norm : float
        c > 0, in units of an update's norm.

    Notes
    -----
    .. math::
       y_i = x_i \min\left( 1, \frac{c}{\lVert x_i \rVert} \right)

    where :math:`x_i` is client i's update and c the `max_norm`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies.pre_aggregation import Clipping
    >>> from fedguard.updates import ClientUpdates
    >>> updates = ClientUpdates.from_matrix(torch.tensor([[6.0, 8.0], [1.0, 0.0]]))
    >>> Clipping(max_norm=5.0)(updates).deltas.tolist()
    [[3.0, 4.0], [1.0, 0.0]]
    """

    def __init__(self, *, max_norm: float = 2.0) -> None:
        check_number("max_norm", max_norm, above=0.0)
        self.max_norm = max_norm

    def matrix(self, updates: ClientUpdates) -> Tensor:
        """Return the factors on the diagonal; see `PreAggregation.matrix`."""
        return torch.diag(clip_factors(shared_norms(updates), self.max_norm))

    def shares(self, updates: ClientUpdates, matrix: Tensor) -> Tensor:
        """Return the identity: every row is one client's."""
        return torch.eye(len(matrix), dtype=torch.float64, device=matrix.device)
