"""Zero update: send the global model back."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fedguard.attacks.base import Attack, Knowledge
from fedguard.attacks.toolkit.crafting import send
from fedguard.attacks.toolkit.survey import Tags
from fedguard.updates import ClientUpdates


class ZeroUpdate(Attack):
    """Each malicious client sends the global model back unchanged.

    Slows plain averaging by the factor ``(n - f) / n``, and is the plain free rider of Fraboni,
    Vidal and Lorenzi, "Free-rider Attacks on Model Aggregation in Federated Learning",
    AISTATS 2021.

    Notes
    -----
    .. math::
       d_i' = 0

    for every malicious client i.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks import Knowledge
    >>> from fedguard.attacks.zero import ZeroUpdate
    >>> from fedguard.updates import ClientUpdates
    >>> honest = ClientUpdates.from_matrix(torch.tensor([[1.0, 4.0], [3.0, 4.0]]))
    >>> coalition = ClientUpdates.from_matrix(torch.tensor([[2.0, 1.0]]), node_ids=[9])
    >>> seen = Knowledge("full", honest, 3, 1, 1, torch.Generator())
    >>> attack = ZeroUpdate()
    >>> attack.craft(coalition, seen).tolist()
    [[0.0, 0.0]]
    """

    needs: ClassVar[frozenset[str]] = frozenset({"updates"})
    alone: ClassVar[bool] = True
    tags: ClassVar[Tags | None] = Tags(edits="model")

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return (F, D) deltas without a change to trainable parameters; see `Attack.craft`."""
        return send(coalition, coalition.trainable.new_zeros(()))
