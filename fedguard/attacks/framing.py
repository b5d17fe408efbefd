"""Framing: what the coalition sends makes the deployed rule turn honest clients away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from fedguard.attacks.base import Attack, Knowledge, KnowledgeScope
from fedguard.attacks.toolkit.crafting import centred_gram, directions, send
from fedguard.attacks.toolkit.rehearsal import Rehearsal
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number
from fedguard.updates import ClientUpdates

_SCALES = (0.5, 1.0, 2.0)
"""Multiples of the honest mean that a crowd is tried with."""


class Framing(Attack):
    r"""Send what makes the deployed rule turn most honest clients away.

    The members do not mind being rejected: where a rule takes company for guilt, it loses those
    whose company they are. Tried on a copy of the rule, the one that leaves fewest honest clients
    in is sent:

    1. a shadow each: every member repeats another honest client's update, one that stands out;
    2. the same with the honest clients nearest to the mean;
    3. all shadow one client, of `victims` that stand out most;
    4. a crowd: all send the honest mean, or half or twice it, next to which others look odd.

    Every vector carries noise, so that no two are equal. Meant for full knowledge: with partial
    knowledge the members shadow each other, and only the crowd frames anybody. Where the rule
    cannot be copied the first one is sent.

    Ours, as far as we know; that a defence may be turned against honest clients is the availability
    attack of Barreno, Nelson, Joseph and Tygar, "The Security of Machine Learning", Machine
    Learning 81, 2010. `Mimic` repeats one client to make a rule believe it; here it is to be
    disbelieved.

    Parameters
    ----------
    victims : int
        How many clients are tried as the one that all shadow, at least 1.
    noise : float
        Length of the noise in lengths of what it is added to, at least 0.

    Notes
    -----
    .. math::
       (d_1', \ldots, d_f') = \operatorname{argmin}_{V} \left| \left\{ i \le h :
       w_i(R(d_1, \ldots, d_h, V)) > 0 \right\} \right|, \qquad
       V_a = v_a + q \lVert v_a \rVert u_a

    where :math:`d_i` are the h honest updates, :math:`w_i` their shares after the copied rule R,
    V one of the vectors above, :math:`u_a` random directions of length 1, and q is `noise`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks import Knowledge
    >>> from fedguard.attacks.framing import Framing
    >>> from fedguard.updates import ClientUpdates
    >>> honest = ClientUpdates.from_matrix(torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 9.0]]))
    >>> coalition = ClientUpdates.from_matrix(torch.tensor([[2.0, 1.0]]), node_ids=[9])
    >>> seen = Knowledge("full", honest, 4, 1, 1, torch.Generator())
    >>> Framing(noise=0.0).craft(coalition, seen).tolist()
    [[0.0, 9.0]]
    """

    needs: ClassVar[frozenset[str]] = frozenset({"updates", "aggregate"})
    tags: ClassVar[Tags | None] = Tags(
        edits="model", knowledge="white", stealth="hidden", variability="dynamic"
    )

    def __init__(self, *, victims: int = 3, noise: float = 0.01) -> None:
        check_number("victims", victims, at_least=1)
        check_number("noise", noise, at_least=0.0)
        self.victims = victims
        self.noise = noise

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) deltas that frame most; see `Attack.craft`."""
        if not len(coalition):
            return coalition.deltas
        rehearse = Rehearsal(coalition, knowledge)
        noise = directions(coalition.trainable.shape, knowledge.generator).to(coalition.deltas)
        ways = (self._noisy(each, noise) for each in self._ways(rehearse.others, len(coalition)))
        return send(coalition, min(ways, key=rehearse.kept))  # the first of equally good ones

    def remarks(self, scope: KnowledgeScope) -> list[str]:
        """Say that without the others' updates there is nobody to shadow."""
        told = "framing copies its own members without attack_knowledge=full"
        return [] if scope == "full" else [told]

    def _ways(self, others: ClientUpdates, members: int) -> Iterator[Tensor]:
        """Yield (F, T) vectors to try."""
        rows = others.trainable
        outward = centred_gram(rows).diagonal().argsort(descending=True, stable=True)
        turn = torch.arange(members) % len(rows)
        yield rows[outward[turn]]
        yield rows[outward.flip(0)[turn]]
        for victim in outward[: self.victims].tolist():
            yield rows[victim].expand(members, -1)
        mean = rows.mean(dim=0)
        for scale in _SCALES:
            yield (scale * mean).expand(members, -1)

    def _noisy(self, vectors: Tensor, noise: Tensor) -> Tensor:
        lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        noisy: Tensor = vectors + self.noise * lengths * noise
        return noisy
