"""ROP: relocated orthogonal perturbation."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from fedguard.attacks.base import Attack, Knowledge
from fedguard.attacks.toolkit.crafting import norm, send, visible
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number
from fedguard.updates import ClientUpdates


class Rop(Attack):
    r"""All malicious clients send a point near the last aggregate, pushed off at a right angle.

    Rules that clip around
    the last aggregate, such as centered clipping, measure distance and not direction.

    A reading of Ozfatura, Ozfatura, Kupcu and Gunduz, "Byzantines can also Learn from History:
    Fall of Centered Clipping in Federated Learning", IEEE TIFS 2024. The paper works on client
    momenta and scales the perturbation by z alone; updates of a few local epochs come in any
    size, so z is relative to the reference here. Without a last aggregate (first round, or a
    caller that does not know it) g is mu.

    Parameters
    ----------
    z : float
        Size of the perturbation relative to the reference, above 0.
    angle : float
        Angle to the reference in degrees, 0 to 180; 90 is orthogonal, 180 its opposite.
    relocation : float
        Share of the last aggregate in the place, 0 to 1.
    history : float
        Share of the last aggregate in the reference, 0 to 1.

    Notes
    -----
    .. math::
       d' = \lambda g + (1 - \lambda) \mu + z \lVert r \rVert \left( \sin(\alpha) \, o
       + \cos(\alpha) \frac{r}{\lVert r \rVert} \right), \qquad
       r = \nu g + (1 - \nu) \mu, \qquad
       o = \frac{e - \langle e, \hat{r} \rangle \hat{r}}
       {\lVert e - \langle e, \hat{r} \rangle \hat{r} \rVert}

    where g is what the server added in the round before, :math:`\mu` the mean of the visible honest
    updates, e the vector of ones, :math:`\hat{r} = r / \lVert r \rVert`, :math:`\alpha` the
    `angle`, :math:`\lambda` the `relocation` and :math:`\nu` the `history`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks import Knowledge
    >>> from fedguard.attacks.rop import Rop
    >>> from fedguard.updates import ClientUpdates
    >>> honest = ClientUpdates.from_matrix(torch.tensor([[3.0, 3.0, 0.0]]))
    >>> coalition = ClientUpdates.from_matrix(torch.tensor([[1.0, 0.0, 0.0]]), node_ids=[9])
    >>> seen = Knowledge("full", honest, 3, 1, 1, torch.Generator())
    >>> attack = Rop(z=0.5)
    >>> [round(value, 3) for value in attack.craft(coalition, seen)[0].tolist()]
    [3.0, 3.0, 2.121]
    """

    needs: ClassVar[frozenset[str]] = frozenset({"updates"})
    tags: ClassVar[Tags | None] = Tags(
        edits="model", knowledge="gray", stealth="hidden", variability="dynamic"
    )

    def __init__(
        self,
        *,
        z: float = 1.0,
        angle: float = 90.0,
        relocation: float = 1.0,
        history: float = 0.9,
    ) -> None:
        check_number("z", z, above=0.0)
        check_number("angle", angle, at_least=0.0, at_most=180.0)
        check_number("relocation", relocation, at_least=0.0, at_most=1.0)
        check_number("history", history, at_least=0.0, at_most=1.0)
        self.z = z
        self.angle = angle
        self.relocation = relocation
        self.history = history

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) deltas, one vector for all; see `Attack.craft`."""
        rows = visible(coalition, knowledge)
        if not len(rows):
            return coalition.deltas
        mean = rows.mean(dim=0)
        last = mean if knowledge.last_update is None else knowledge.last_update[: len(mean)]
        place = self.relocation * last + (1.0 - self.relocation) * mean
        reference = self.history * last + (1.0 - self.history) * mean
        size = norm(reference)
        if not size > 0.0:
            return send(coalition, place)
        along = reference / size
        turn = math.radians(self.angle)
        push = math.sin(turn) * _orthogonal(along) + math.cos(turn) * along
        return send(coalition, place + self.z * size * push)


def _orthogonal(along: Tensor) -> Tensor:
    """Return the unit vector of ones minus its projection on the unit vector `along`.

    Where the ones themselves lie along it, alternating signs take their place.
    """
    wide = along.to(torch.float64)
    ones = torch.ones_like(wide)
    for start in (ones, ones.index_fill(0, torch.arange(1, len(ones), 2), -1.0)):
        rest = start - (start @ wide) * wide
        length = norm(rest)
        if length > 1e-6 * math.sqrt(len(ones)):
            return (rest / length).to(along.dtype)
    return torch.zeros_like(along)
