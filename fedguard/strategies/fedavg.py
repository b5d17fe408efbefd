"""Federated averaging, the rule without a defence."""

from __future__ import annotations

from typing import ClassVar

from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.toolkit.mixture import all_rows, combination
from fedguard.updates import ClientUpdates, Verdict


class FedAvg(RobustStrategy):
    r"""Average the updates by the number of examples that each client claims.

    McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
    AISTATS 2017. No defence: one client can move the model anywhere. Unlike Flower's own FedAvg it
    sets malformed replies aside instead of raising or averaging them in.

    Notes
    -----
    .. math::
       \delta = \frac{\sum_k n_k \delta_k}{\sum_k n_k}

    where :math:`\delta_k` is client k's update and :math:`n_k` the examples that it claims.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies import FedAvg
    >>> from fedguard.updates import ClientUpdates
    >>> deltas = torch.tensor([[1.0, 0.0], [4.0, 3.0]])
    >>> updates = ClientUpdates.from_matrix(deltas, num_examples=[20, 10])
    >>> FedAvg().decide(updates).delta.tolist()
    [2.0, 1.0]
    """

    properties: ClassVar[frozenset[str]] = frozenset({"translation", "scale"})
    traits = RobustStrategy.traits.but(blocks="columns")

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the weighted mean; see `RobustStrategy.combine`."""
        weights = updates.num_examples / updates.num_examples.sum()
        return Verdict(combination(all_rows(updates), weights), weights)
