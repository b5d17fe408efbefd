"""MoNNA: nearest neighbour averaging around a trusted update."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from fedguard.errors import check_assumed_malicious
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.toolkit.averaging import average, equal_weights, lowest, rejections
from fedguard.strategies.toolkit.bounds import assumed_count
from fedguard.strategies.toolkit.distances import row_norms
from fedguard.strategies.toolkit.mixture import trainable_rows
from fedguard.strategies.toolkit.server_training import check_training, server_update
from fedguard.updates import ClientUpdates, Verdict


class MoNNA(RobustStrategy):
    r"""Average the n - f updates nearest to the server's own.

    Farhadkhani et al., "Robust Collaborative Learning with Linear Gradient Overhead", ICML 2023.
    There every node trusts itself; here the server does, and trains on its own data. (A variant
    that trusts one of the clients hands the model to whoever sits at that index.) The server's
    update is the pivot only and is not averaged in. Clients that tie with the last one are in.

    Parameters
    ----------
    assumed_malicious : float
        Assumed fraction of malicious clients, 0 <= a < 0.5; f is its share of n, rounded up.
    server_epochs, server_batch_size, server_lr : int, int, float
        How the server trains: passes >= 1, examples per step >= 2, step size > 0. They should
        resemble the clients' settings.

    Notes
    -----
    .. math::
       \delta = \frac{1}{n - f} \sum_{k \in S} \delta_k, \qquad
       S = \text{the } n - f \text{ clients with the least } \lVert \delta_k - g \rVert

    where :math:`\delta_k` is client k's update, g the server's own, n the clients and f the assumed
    bound.

    Examples
    --------
    >>> import torch
    >>> from fedguard.layout import ParameterLayout
    >>> from fedguard.strategies import MoNNA
    >>> from fedguard.updates import ClientUpdates
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False))
    >>> server_data = torch.ones(4, 1), torch.zeros(4, dtype=torch.int64)
    >>> updates = ClientUpdates.from_matrix(
    ...     torch.tensor([[0.1, -0.1], [0.3, -0.3], [0.2, 0.0], [-9.0, 9.0]]),
    ...     layout=ParameterLayout.from_module(model),
    ... )
    >>> rule = MoNNA(model=model, server_data=server_data, latent_layer="0")
    >>> verdict = rule.decide(updates)
    >>> [round(value, 3) for value in verdict.delta.tolist()]
    [0.2, -0.133]
    >>> sorted(verdict.reasons)
    [3]
    """

    traits = RobustStrategy.traits.but(blocks="columns", server_data="labelled", server_model=True)
    properties: ClassVar[frozenset[str]] = frozenset({"robust"})

    def __init__(
        self,
        *,
        assumed_malicious: float = 0.25,
        server_epochs: int = 1,
        server_batch_size: int = 32,
        server_lr: float = 0.05,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        check_assumed_malicious(assumed_malicious)
        check_training(server_epochs, server_batch_size, server_lr)
        self.assumed_malicious = assumed_malicious
        self.training = {"epochs": server_epochs, "batch_size": server_batch_size}
        self.server_lr = server_lr

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the mean of the server's nearest neighbours; see `RobustStrategy.combine`."""
        pivot = server_update(self, updates, **self.training, lr=self.server_lr)
        return self.around(updates, pivot)

    def around(self, updates: ClientUpdates, pivot: Tensor) -> Verdict:
        """Return the mean of the updates nearest to `pivot` (D,)."""
        distances = row_norms(trainable_rows(updates), pivot[: updates.layout.num_trainable])
        count = len(updates)
        keep = lowest(distances, count - assumed_count(self.assumed_malicious, count))
        weights = equal_weights(keep)
        reasons = rejections(
            updates, weights, lambda row: f"{distances[row]:.3g} away from the server's update"
        )
        return Verdict(average(updates, weights), weights, {"server_distance": distances}, reasons)
