"""`PreAggregation`: what is done to the updates before a rule sees them.

Each part maps `ClientUpdates` to `ClientUpdates` and composes with any rule. All are linear maps
of the rows with coefficients that depend on the round: ``y_i = sum_j M_ij x_j`` on the trainable
parameters, with M from `matrix`. So the weights that the rule gives to the rows y lead back to
the clients, and `combine_after` returns a verdict about clients.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from fedguard.layout import ParameterLayout
from fedguard.strategies.toolkit.coordinates import coordinate_median
from fedguard.strategies.toolkit.mixture import MixedUpdates, Mixture
from fedguard.traits import Traits
from fedguard.update_store import StoredRows
from fedguard.updates import ClientUpdates, Verdict


class PreAggregation(ABC):
    """A map from the round's updates to the ones that the rule sees."""

    traits: ClassVar[Traits] = Traits(blocks="columns")
    """What the core reads of it: whether it maps updates that lie in a file."""

    def bind(self, layout: ParameterLayout) -> None:  # noqa: B027
        """Check before the first round that the part fits a model with this layout.

        Raises
        ------
        ConfigurationError
            If it does not.
        """

    @abstractmethod
    def matrix(self, updates: ClientUpdates) -> Tensor:
        """Return the (L, K) float64 coefficients M, at least 0, no row all 0."""

    def shares(self, updates: ClientUpdates, matrix: Tensor) -> Tensor:
        """Return the (L, K) shares of the clients in each row; every row adds up to 1."""
        return matrix / matrix.sum(dim=1, keepdim=True)

    def __call__(self, updates: ClientUpdates) -> ClientUpdates:
        """Return the mixed or clipped updates; see `apply`."""
        return self.mixed(updates)[0]

    def mixed(self, updates: ClientUpdates) -> tuple[ClientUpdates, Tensor]:
        """Return the mixed or clipped updates, and the (L, K) shares of the clients in them."""
        matrix = self.matrix(updates)
        return self.apply(updates, matrix), self.shares(updates, matrix)

    def apply(self, updates: ClientUpdates, matrix: Tensor) -> ClientUpdates:
        """Return the rows ``M x``, computed where a rule reads them; buffers are never scaled.

        A row's buffers are the coordinate-wise median of the clients it mixes, because the
        neighbourhood of an update says nothing about its buffers. Where there are fewer rows than
        clients, rows get the ids 0 to L - 1.
        """
        shares = self.shares(updates, matrix)
        if isinstance(updates, MixedUpdates):
            source = updates.mixture
            rows, buffers, matrix = source.rows, source.tail, matrix @ source.matrix.to(matrix)
        else:
            rows, buffers = updates.trainable, updates.deltas[:, updates.layout.num_trainable :]
            if isinstance(buffers, StoredRows):
                buffers = buffers.tensor()
        tail = buffers.new_empty(len(matrix), buffers.shape[1])
        if buffers.shape[1] > 0:
            for row, members in enumerate(shares > 0):
                tail[row] = coordinate_median(buffers, members.nonzero().flatten())
        same = len(matrix) == len(updates)
        return MixedUpdates(
            num_examples=shares @ updates.num_examples,
            node_ids=updates.node_ids if same else tuple(range(len(matrix))),
            global_vector=updates.global_vector,
            layout=updates.layout,
            malformed=updates.malformed,
            remarks=updates.remarks,
            server_round=updates.server_round,
            mixture=Mixture(matrix.to(torch.float32), rows, tail),
        )


def combine_after(
    pre: PreAggregation, combine: Callable[[ClientUpdates], Verdict], updates: ClientUpdates
) -> Verdict:
    """Return the verdict of `combine` on the mixed updates, led back to the clients.

    A client's weight is its share in the rows that were accepted; its score the mean over the
    rows it is part of; it is rejected if all of those are.
    """
    seen, shares = pre.mixed(updates)
    verdict = combine(seen)
    weights = shares.T @ verdict.weights.to(shares)
    presence = shares / shares.sum(dim=0).clamp(min=1e-300)
    scores = {name: presence.T @ score.to(shares) for name, score in verdict.scores.items()}
    reasons = {
        node: _reason(verdict, seen, shares[:, row])
        for row, node in enumerate(updates.node_ids)
        if float(weights[row]) == 0.0
    }
    return Verdict(verdict.delta, weights, scores, reasons)


def _reason(verdict: Verdict, seen: ClientUpdates, share: Tensor) -> str:
    """Return why the row that a rejected client has most part in was rejected."""
    row = int(share.argmax())
    if float(share[row]) == 0.0:
        return "near to no other update"
    return verdict.reasons.get(seen.node_ids[row], "mixed into rejected updates only")
