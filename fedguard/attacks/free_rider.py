"""Disguised free rider: no work, but noise that looks like work."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fedguard.attacks.base import Attack, Knowledge
from fedguard.attacks.toolkit.crafting import send
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number
from fedguard.updates import ClientUpdates


class FreeRider(Attack):
    r"""Each malicious client sends small noise that fades over the rounds, and trains nothing.

    Fraboni, Vidal and Lorenzi, "Free-rider Attacks on Model Aggregation in Federated Learning",
    AISTATS 2021. The paper sets the first round's deviation from the last change of the global
    model; here it is a parameter, so that a run does not depend on what the attacker remembers.

    Parameters
    ----------
    std : float
        Standard deviation per coordinate in round 1, in units of the weights, at least 0.
    decay : float
        Exponent of the decline over rounds, at least 0; 1 in the paper.

    Notes
    -----
    .. math::
       d_i' \sim \mathcal{N}\left( 0, (\sigma t^{-\gamma})^2 I \right)

    in round t, where :math:`\sigma` is `std` and :math:`\gamma` the `decay`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks import Knowledge
    >>> from fedguard.attacks.free_rider import FreeRider
    >>> from fedguard.updates import ClientUpdates
    >>> honest = ClientUpdates.from_matrix(torch.tensor([[1.0, 4.0], [3.0, 4.0]]))
    >>> coalition = ClientUpdates.from_matrix(torch.tensor([[2.0, 1.0]]), node_ids=[9])
    >>> seen = Knowledge("full", honest, 3, 1, 1, torch.Generator())
    >>> attack = FreeRider(std=0.0)
    >>> attack.craft(coalition, seen).tolist()
    [[0.0, 0.0]]
    """

    needs: ClassVar[frozenset[str]] = frozenset({"updates"})
    tags: ClassVar[Tags | None] = Tags(edits="model", knowledge="gray", variability="dynamic")

    def __init__(self, *, std: float = 1e-3, decay: float = 1.0) -> None:
        check_number("std", std, at_least=0.0)
        check_number("decay", decay, at_least=0.0)
        self.std = std
        self.decay = decay

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) noise; see `Attack.craft`."""
        std = self.std * max(knowledge.server_round, 1) ** -self.decay
        noise = torch.randn(coalition.trainable.shape, generator=knowledge.generator)
        return send(coalition, noise * std)
