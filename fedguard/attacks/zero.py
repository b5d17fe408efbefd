"""Zero update: send the global model back."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fedguard.attacks.base import Attack, Knowledge
from fedguard.attacks.toolkit.crafting import send
from fedguard.updates import ClientUpdates


class ZeroUpdate(Attack):
    """Each malicious client sends the global model back unchanged.

    ``d_i' = 0``

    Slows plain averaging by the factor ``(n - f) / n``, and is the plain free rider of Fraboni,
    Vidal and Lorenzi, "Free-rider Attacks on Model Aggregation in Federated Learning",
    AISTATS 2021.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"updates"})

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return (F, D) deltas without a change to trainable parameters; see `Attack.craft`."""
        return send(coalition, coalition.trainable.new_zeros(()))
