"""FLTrust."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from fedguard.errors import check_number
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.toolkit.averaging import average, rejections
from fedguard.strategies.toolkit.distances import gram_matrix
from fedguard.strategies.toolkit.server_training import check_training, server_update
from fedguard.updates import ClientUpdates, Verdict


class FLTrust(RobustStrategy):
    r"""Trust clients by how far they point the way of the server's own update.

    Cao et al., "FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping", NDSS 2021.
    Where no client points the server's way, or the server's update is zero, the model stays.
    Half of the clients point away from the server where they share nothing with it, so honest
    clients who are dissimilar are left out (``"dissimilar-exempt"``).

    Parameters
    ----------
    global_lr : float
        eta > 0.
    server_epochs, server_batch_size, server_lr : int, int, float
        How the server trains: passes >= 1, examples per step >= 2, step size > 0. The paper lets
        the server train as the clients do.

    Notes
    -----
    .. math::
       \delta = \frac{\eta}{\sum_j \mathrm{TS}_j} \sum_k \mathrm{TS}_k
       \frac{\lVert g \rVert}{\lVert \delta_k \rVert} \delta_k, \qquad
       \mathrm{TS}_k = \max(\cos(\delta_k, g), 0)

    where :math:`\delta_k` is client k's update, g the server's own, and :math:`\eta` the
    `global_lr`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.layout import ParameterLayout
    >>> from fedguard.strategies import FLTrust
    >>> from fedguard.updates import ClientUpdates
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False))
    >>> server_data = torch.ones(4, 1), torch.zeros(4, dtype=torch.int64)
    >>> updates = ClientUpdates.from_matrix(
    ...     torch.tensor([[4.0, -4.0], [2.0, 2.0], [-1.0, 1.0]]),
    ...     layout=ParameterLayout.from_module(model),
    ... )
    >>> rule = FLTrust(model=model, server_data=server_data, latent_layer="0")
    >>> verdict = rule.decide(updates)
    >>> [round(value, 3) for value in verdict.delta.tolist()]
    [0.025, -0.025]
    >>> verdict.weights.tolist()
    [1.0, 0.0, 0.0]
    """

    traits = RobustStrategy.traits.but(blocks="rows", server_data="labelled", server_model=True)
    properties: ClassVar[frozenset[str]] = frozenset({"robust", "dissimilar-exempt"})

    def __init__(
        self,
        *,
        global_lr: float = 1.0,
        server_epochs: int = 1,
        server_batch_size: int = 32,
        server_lr: float = 0.05,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        check_number("global_lr", global_lr, above=0.0)
        check_training(server_epochs, server_batch_size, server_lr)
        self.global_lr = global_lr
        self.training = {"epochs": server_epochs, "batch_size": server_batch_size}
        self.server_lr = server_lr

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the mean weighted by trust; see `RobustStrategy.combine`."""
        own = server_update(self, updates, **self.training, lr=self.server_lr)
        own = own[: updates.layout.num_trainable]
        norms, products, own_norm = _against(updates, own)
        scale = norms * own_norm
        cosine = torch.where(scale > 0, products / scale.clamp(min=1e-300), 0.0)
        trust = cosine.clamp(0.0, 1.0)
        weights = trust / trust.sum() if float(trust.sum()) > 0.0 else torch.zeros_like(trust)
        factors = torch.where(norms > 0, self.global_lr * own_norm / norms.clamp(min=1e-300), 0.0)
        reasons = rejections(
            updates, weights, lambda row: f"cosine {cosine[row]:.3f} with the server's update"
        )
        delta = average(updates, weights, factors)
        return Verdict(delta, weights, {"trust_score": trust, "cosine": cosine}, reasons)


def _against(updates: ClientUpdates, own: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the clients' norms (K,), their inner products with `own` (K,) and its norm."""
    wide = own.to(torch.float64)
    products, norms = wide.new_empty(len(updates)), wide.new_empty(len(updates))
    for place, row in enumerate(updates.trainable):
        widened = row.to(torch.float64)
        products[place], norms[place] = widened @ wide, widened.norm()
    return norms, products, gram_matrix(own[None, :]).sqrt()[0, 0]
