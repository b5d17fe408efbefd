"""IPM: inner product manipulation."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fedguard.attacks.base import Attack, Knowledge
from fedguard.attacks.toolkit.crafting import send, visible
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number
from fedguard.updates import ClientUpdates


class Ipm(Attack):
    r"""All malicious clients send the opposite of the honest mean, scaled.

    Xie, Koyejo and Gupta, "Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product
    Manipulation", UAI 2019. The inner product of the plain mean with mu turns negative above
    ``epsilon = (n - f) / f``; small values such as 0.1 and 0.5 are those that get past median and
    Krum.

    Parameters
    ----------
    epsilon : float, optional
        Factor, above 0. Left out: ``2 (n - f) / f``, which makes the plain mean of n updates
        exactly the opposite of what it would be with zeros in the coalition's place.

    Notes
    -----
    .. math::
       d' = -\varepsilon \mu, \qquad \varepsilon = \frac{2 (n - f)}{f} \text{ if left out}

    where :math:`\mu` is the mean of the visible honest updates, n the clients of the round and f of
    them malicious.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks import Knowledge
    >>> from fedguard.attacks.ipm import Ipm
    >>> from fedguard.updates import ClientUpdates
    >>> honest = ClientUpdates.from_matrix(torch.tensor([[1.0, 4.0], [3.0, 4.0]]))
    >>> coalition = ClientUpdates.from_matrix(torch.tensor([[2.0, 1.0]]), node_ids=[9])
    >>> seen = Knowledge("full", honest, 3, 1, 1, torch.Generator())
    >>> attack = Ipm(epsilon=0.5)
    >>> attack.craft(coalition, seen).tolist()
    [[-1.0, -2.0]]
    """

    needs: ClassVar[frozenset[str]] = frozenset({"updates"})
    tags: ClassVar[Tags | None] = Tags(edits="model", knowledge="gray", variability="dynamic")

    def __init__(self, *, epsilon: float | None = None) -> None:
        if epsilon is not None:
            check_number("epsilon", epsilon, above=0.0)
        self.epsilon = epsilon

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) deltas, one vector for all; see `Attack.craft`."""
        rows = visible(coalition, knowledge)
        if not len(rows):
            return coalition.deltas
        return send(coalition, rows.mean(dim=0) * -self._factor(knowledge))

    def _factor(self, knowledge: Knowledge) -> float:
        if self.epsilon is not None:
            return self.epsilon
        malicious = max(knowledge.num_malicious, 1)
        return 2.0 * max(knowledge.cohort_size - malicious, 1) / malicious
