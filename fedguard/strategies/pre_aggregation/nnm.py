"""Nearest neighbour mixing (NNM)."""

from __future__ import annotations

import torch
from torch import Tensor

from fedguard.errors import check_assumed_malicious
from fedguard.strategies.pre_aggregation.base import PreAggregation
from fedguard.strategies.toolkit.averaging import lowest
from fedguard.strategies.toolkit.bounds import assumed_count
from fedguard.strategies.toolkit.distances import shared_distances
from fedguard.updates import ClientUpdates


class NearestNeighbourMixing(PreAggregation):
    r"""Replace each update by the mean of its n - f nearest, itself included.

    Allouah et al., "Fixing by Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity",
    AISTATS 2023. Updates as near as the last of them are averaged in.

    Parameters
    ----------
    assumed_malicious : float
        Assumed fraction of malicious clients, 0 <= a < 0.5; f is its share of n, rounded up.

    Notes
    -----
    .. math::
       y_i = \frac{1}{n - f} \sum_{j \in N_i} x_j

    where :math:`x_j` is client j's update, and :math:`N_i` the n - f clients nearest to i, itself
    among them; n clients, f the assumed bound.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies.pre_aggregation import NearestNeighbourMixing
    >>> from fedguard.updates import ClientUpdates
    >>> updates = ClientUpdates.from_matrix(torch.tensor([[1.0], [3.0], [9.0]]))
    >>> NearestNeighbourMixing(assumed_malicious=0.3)(updates).deltas.tolist()
    [[2.0], [2.0], [6.0]]
    """

    def __init__(self, *, assumed_malicious: float = 0.25) -> None:
        check_assumed_malicious(assumed_malicious)
        self.assumed_malicious = assumed_malicious

    def matrix(self, updates: ClientUpdates) -> Tensor:
        """Return the uniform weights of each update's neighbours; see `PreAggregation.matrix`."""
        count = len(updates)
        squared = shared_distances(updates)
        wanted = count - assumed_count(self.assumed_malicious, count)
        near = torch.stack([lowest(row, wanted) for row in squared]).to(torch.float64)
        return near / near.sum(dim=1, keepdim=True)
