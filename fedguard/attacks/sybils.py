"""Sybils: one attacker behind many identities."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from fedguard.attacks.base import Knowledge
from fedguard.attacks.label_flip import LabelFlip
from fedguard.attacks.toolkit.crafting import norm, send
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number
from fedguard.randomness import generator
from fedguard.updates import ClientUpdates


class Sybils(LabelFlip):
    r"""All malicious identities are one client on wrong labels, whose update they all send.

    Fung, Yoon and Beschastnikh, "The Limitations of Federated Learning in Sybil Settings", RAID
    2020, of attackers that share one aim and differ by noise. The more identities, the more votes
    one poisoned data set has. Every identity keeps its own direction, so that a rule with a memory
    cannot average the disguise away.

    Parameters
    ----------
    noise : float
        Length of the disguise in lengths of the update, at least 0; 0 sends copies.
    **flip : Any
        Options of `LabelFlip`.

    Notes
    -----
    .. math::
       d_i' = s \, d_1 + q \, s \lVert d_1 \rVert \, u_i

    where :math:`d_1` is the update of the identity of the lowest number in the round, which sends
    :math:`s \, d_1` itself, :math:`u_i` a random direction of length 1 that belongs to identity i
    for good, q the `noise` and s the `scale`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks import Knowledge
    >>> from fedguard.attacks.sybils import Sybils
    >>> from fedguard.updates import ClientUpdates
    >>> both = ClientUpdates.from_matrix(torch.tensor([[3.0, 4.0], [9.0, 9.0]]), node_ids=[4, 7])
    >>> seen = Knowledge("partial", both, 5, 2, 1, torch.Generator())
    >>> Sybils(noise=0.0).craft(both, seen).tolist()
    [[3.0, 4.0], [3.0, 4.0]]
    """

    needs: ClassVar[frozenset[str]] = LabelFlip.needs
    tags: ClassVar[Tags | None] = Tags(edits="labels", knowledge="gray", by=("label flip",))

    def __init__(self, *, noise: float = 0.3, **flip: Any) -> None:
        super().__init__(**flip)
        check_number("noise", noise, at_least=0.0)
        self.noise = noise

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) disguised copies; see `Attack.craft`."""
        first = min(range(len(coalition)), key=coalition.node_ids.__getitem__)
        own = coalition.trainable[first] * self.scale
        rows = own.expand(len(coalition), -1).clone()
        for row, node in enumerate(coalition.node_ids):
            if self.noise > 0.0 and row != first:
                drawn = torch.randn(len(own), generator=generator(0, 0, node, "sybil disguise"))
                rows[row] += (self.noise * norm(own) / norm(drawn)) * drawn.to(own)
        return send(coalition, rows)
