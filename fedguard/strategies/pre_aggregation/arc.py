"""Adaptive robust clipping (ARC)."""

from __future__ import annotations

import torch
from torch import Tensor

from fedguard.errors import check_assumed_malicious
from fedguard.strategies.pre_aggregation.clipping import Clipping
from fedguard.strategies.toolkit.averaging import clip_factors
from fedguard.strategies.toolkit.bounds import assumed_count
from fedguard.strategies.toolkit.distances import shared_norms
from fedguard.updates import ClientUpdates


class AdaptiveClipping(Clipping):
    r"""Adaptive robust clipping (ARC): clip the largest norms to the next one below them.

    Allouah, Guerraoui, Gupta, Jellouli, Rizk and Stephan, "Adaptive Gradient Clipping for Robust
    Federated Learning", ICLR 2025.

    Parameters
    ----------
    assumed_malicious : float
        Assumed fraction of malicious clients, 0 <= a < 0.5; f is its share of n, rounded up, and
        at most ``(n - 1) // 2``.

    Notes
    -----
    .. math::
       y_i = x_i \min\left( 1, \frac{c}{\lVert x_i \rVert} \right), \qquad
       c = \lVert x \rVert_{(q + 1)}, \quad
       q = \left\lfloor \frac{2 f (n - f)}{n} \right\rfloor

    where :math:`x_i` is client i's update, :math:`\lVert x \rVert_{(r)}` the r-th largest norm of
    the n clients, and f the assumed bound.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies.pre_aggregation import AdaptiveClipping
    >>> from fedguard.updates import ClientUpdates
    >>> updates = ClientUpdates.from_matrix(torch.tensor([[1.0], [2.0], [4.0], [64.0]]))
    >>> AdaptiveClipping(assumed_malicious=0.25)(updates).deltas.tolist()
    [[1.0], [2.0], [4.0], [4.0]]
    """

    def __init__(self, *, assumed_malicious: float = 0.25) -> None:
        check_assumed_malicious(assumed_malicious)
        self.assumed_malicious = assumed_malicious

    def matrix(self, updates: ClientUpdates) -> Tensor:
        """Return the factors on the diagonal; see `PreAggregation.matrix`."""
        count = len(updates)
        bound = min(assumed_count(self.assumed_malicious, count), (count - 1) // 2)
        clipped = 2 * bound * (count - bound) // count
        norms = shared_norms(updates)
        return torch.diag(clip_factors(norms, norms.sort().values[count - clipped - 1]))
