"""XFed: every attacker for itself, at the size that honest rounds have."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fedguard.attacks.base import Attack, Knowledge
from fedguard.attacks.toolkit.crafting import norm, send
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number
from fedguard.updates import ClientUpdates

_TO_STD = 1.4826
"""Standard deviation of a normal law in units of its median absolute deviation."""


class XFed(Attack):
    r"""Each malicious client sends its own honest update turned round, at an inconspicuous norm.

    Nobody knows another's data, update or aim.

    A reading of "XFed: A Non-Collusive Model Poisoning Attack Against Byzantine-Robust Federated
    Classifiers", arXiv 2604.09489, 2026, from second-hand notes: that the scale comes from the
    median and the spread of recent changes is known, the exact form of the turned update is not.
    Before the first change is known r is the update's own norm. A coalition of several clients
    shares what it remembers of the changes, which all of them saw.

    Parameters
    ----------
    spread : float
        c >= 0.
    window : int
        Changes remembered, at least 1.

    Notes
    -----
    .. math::
       d_i' = -r \frac{d_i}{\lVert d_i \rVert}, \qquad
       r = \operatorname{med} H + c \cdot 1.4826 \operatorname{med} |H - \operatorname{med} H|

    where :math:`d_i` is member i's honest update, H the norms of the global model's last changes,
    and c is `spread`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks import Knowledge
    >>> from fedguard.attacks.xfed import XFed
    >>> from fedguard.updates import ClientUpdates
    >>> coalition = ClientUpdates.from_matrix(torch.tensor([[3.0, 4.0]]), node_ids=[9])
    >>> last = torch.tensor([0.0, 2.0])
    >>> seen = Knowledge("partial", coalition, 3, 1, 2, torch.Generator(), last_update=last)
    >>> [round(value, 3) for value in XFed().craft(coalition, seen)[0].tolist()]
    [-1.2, -1.6]
    """

    needs: ClassVar[frozenset[str]] = frozenset({"updates"})
    tags: ClassVar[Tags | None] = Tags(
        edits="model", knowledge="gray", stealth="hidden", variability="dynamic"
    )

    def __init__(self, *, spread: float = 1.0, window: int = 10) -> None:
        check_number("spread", spread, at_least=0.0)
        check_number("window", window, at_least=1)
        self.spread = spread
        self.window = window
        self._norms: list[float] = []

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) turned updates; see `Attack.craft`."""
        if knowledge.last_update is not None:
            change = knowledge.last_update[: coalition.layout.num_trainable]
            self._norms = [*self._norms, norm(change)][-self.window :]
        rows = coalition.trainable
        own = torch.tensor([norm(row) for row in rows], dtype=torch.float64)
        radius = own if not self._norms else torch.full_like(own, self.radius())
        factors = torch.where(own > 0, radius / own.clamp(min=1e-300), 0.0)
        return send(coalition, -rows * factors.to(rows)[:, None])

    def radius(self) -> float:
        """Return r from the changes seen so far; at least one."""
        known = torch.tensor(self._norms, dtype=torch.float64)
        middle = torch.quantile(known, 0.5)
        return float(middle + self.spread * _TO_STD * torch.quantile((known - middle).abs(), 0.5))

    def state(self) -> dict[str, Tensor]:
        """Return the norms of the last changes."""
        return {"norms": torch.tensor(self._norms, dtype=torch.float64)} if self._norms else {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take them back; see `Attack.load_state`."""
        self._norms = state["norms"].tolist() if "norms" in state else []
