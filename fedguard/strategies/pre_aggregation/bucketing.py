"""Bucketing."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedguard.errors import check_number
from fedguard.randomness import SERVER, numpy_generator
from fedguard.strategies.pre_aggregation.base import PreAggregation
from fedguard.strategies.toolkit.mixture import all_rows
from fedguard.updates import ClientUpdates


class Bucketing(PreAggregation):
    r"""Shuffle the clients and average them in buckets of s.

    Karimireddy, He and Jaggi, "Byzantine-Robust Learning on Heterogeneous Datasets via
    Bucketing", ICLR 2022. The shuffle is drawn over client ids, so the order of rows changes
    nothing; the last bucket can be smaller.

    Parameters
    ----------
    bucket_size : int
        s >= 1.
    seed : int
        Seed of the shuffle.

    Notes
    -----
    .. math::
       y_b = \frac{1}{|B_b|} \sum_{i \in B_b} x_i, \qquad
       B_b = \{ \pi((b - 1) s + 1), \ldots, \pi(\min(b s, n)) \}

    where :math:`x_i` is client i's update, n the clients, :math:`\pi` a random order of them, and s
    the `bucket_size`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies.pre_aggregation import Bucketing
    >>> from fedguard.updates import ClientUpdates
    >>> updates = ClientUpdates.from_matrix(torch.tensor([[2.0], [2.0], [2.0], [6.0]]))
    >>> sorted(Bucketing(bucket_size=2)(updates).deltas.tolist())
    [[2.0], [4.0]]
    """

    def __init__(self, *, bucket_size: int = 2, seed: int = 0) -> None:
        check_number("bucket_size", bucket_size, at_least=1)
        self.bucket_size = bucket_size
        self.seed = seed

    def matrix(self, updates: ClientUpdates) -> Tensor:
        """Return the membership of the buckets; see `PreAggregation.matrix`."""
        count = len(updates)
        stream = numpy_generator(self.seed, updates.server_round, SERVER, "bucketing")
        by_id = sorted(range(count), key=updates.node_ids.__getitem__)
        order = [by_id[at] for at in stream.permutation(count)]
        matrix = torch.zeros(
            math.ceil(count / self.bucket_size),
            count,
            dtype=torch.float64,
            device=all_rows(updates).device,
        )
        for position, row in enumerate(order):
            matrix[position // self.bucket_size, row] = 1.0
        return matrix / matrix.sum(dim=1, keepdim=True)
