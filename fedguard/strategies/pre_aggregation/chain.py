"""A chain of pre-aggregations."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from fedguard.errors import ConfigurationError
from fedguard.layout import ParameterLayout
from fedguard.strategies.pre_aggregation.base import PreAggregation
from fedguard.updates import ClientUpdates


class Chain(PreAggregation):
    """Apply several pre-aggregations, each to what the one before it made.

    ``y = M_n ... M_2 M_1 x``, where M_i is computed from the rows ``M_{i-1} ... M_1 x``; a
    client's share in a row is the product of the parts' shares in the same way.

    Parameters
    ----------
    parts : sequence of PreAggregation
        In the order in which they are applied, at least one.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies.pre_aggregation import Chain, Clipping, NearestNeighbourMixing
    >>> from fedguard.updates import ClientUpdates
    >>> parts = [Clipping(max_norm=5.0), NearestNeighbourMixing(assumed_malicious=0.3)]
    >>> updates = ClientUpdates.from_matrix(torch.tensor([[1.0], [3.0], [90.0]]))
    >>> Chain(parts)(updates).deltas.tolist()
    [[2.0], [3.0], [4.0]]
    """

    def __init__(self, parts: Sequence[PreAggregation]) -> None:
        if not parts:
            raise ConfigurationError("pre", [], "at least one pre-aggregation")
        self.parts: tuple[PreAggregation, ...] = tuple(
            inner
            for part in parts
            for inner in (part.parts if isinstance(part, Chain) else (part,))
        )

    def bind(self, layout: ParameterLayout) -> None:
        """Let every part check the layout; see `PreAggregation.bind`."""
        for part in self.parts:
            part.bind(layout)

    def matrix(self, updates: ClientUpdates) -> Tensor:
        """Return the product of the parts' coefficients; see `PreAggregation.matrix`."""
        product = self.parts[0].matrix(updates)
        for before, part in pairwise(self.parts):
            updates = before(updates)
            product = part.matrix(updates) @ product
        return product

    def mixed(self, updates: ClientUpdates) -> tuple[ClientUpdates, Tensor]:
        """Return what the last part made, and the clients' shares; see `PreAggregation.mixed`."""
        first, *others = self.parts
        updates, shares = first.mixed(updates)
        for part in others:
            updates, step = part.mixed(updates)
            shares = step @ shares
        return updates, shares


def chain(parts: Sequence[PreAggregation]) -> PreAggregation:
    """Return one pre-aggregation that applies all of `parts`, the first one first."""
    return parts[0] if len(parts) == 1 else Chain(parts)
