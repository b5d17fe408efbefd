"""Copycats: free riders that send what others have learnt."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedguard.attacks.base import Attack, Knowledge
from fedguard.attacks.toolkit.crafting import benign_updates, norm, send
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_choice, check_number
from fedguard.updates import ClientUpdates


class Copycat(Attack):
    r"""Malicious clients train nothing and send a copy, with a little noise on it.

    What is copied is ``"last-change"``, what the server added to the model in the round before,
    which every client has seen; or ``"peer"``, the visible honest update of the lowest node id.

    Lin, Du and Liu, "Free-riders in Federated Learning: Attacks and Defenses", 2019 (delta
    weights). In the first round there is no change to copy, and nothing, zeros, is sent. A peer
    can be copied with full knowledge only; with partial knowledge the last change is.

    Parameters
    ----------
    source : str
        ``"last-change"`` or ``"peer"``.
    noise : float
        Length of the noise in lengths of the copy, at least 0.

    Notes
    -----
    .. math::
       d_i' = c + q \lVert c \rVert \frac{u_i}{\lVert u_i \rVert}, \qquad u_i \sim \mathcal{N}(0, I)

    where c is what is copied, drawn noise :math:`u_i` is member i's own in this round, and q is
    `noise`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks import Knowledge
    >>> from fedguard.attacks.copycat import Copycat
    >>> from fedguard.updates import ClientUpdates
    >>> own = ClientUpdates.from_matrix(torch.tensor([[2.0, 1.0]]), node_ids=[9])
    >>> last = torch.tensor([0.5, -0.5])
    >>> seen = Knowledge("partial", own, 3, 1, 2, torch.Generator(), last_update=last)
    >>> Copycat(noise=0.0).craft(own, seen).tolist()
    [[0.5, -0.5]]
    """

    needs: ClassVar[frozenset[str]] = frozenset({"updates"})
    tags: ClassVar[Tags | None] = Tags(
        edits="model", knowledge="gray", stealth="hidden", variability="dynamic"
    )

    def __init__(
        self, *, source: Literal["last-change", "peer"] = "last-change", noise: float = 0.1
    ) -> None:
        check_choice("source", source, ("last-change", "peer"))
        check_number("noise", noise, at_least=0.0)
        self.source = source
        self.noise = noise

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) copies; see `Attack.craft`."""
        size = coalition.layout.num_trainable
        copied = torch.zeros(size)
        if knowledge.last_update is not None:
            copied = knowledge.last_update[:size]
        if self.source == "peer" and knowledge.scope == "full":
            others = benign_updates(coalition, knowledge)
            if len(others) and not set(others.node_ids) & set(coalition.node_ids):
                copied = others.trainable[0]
        drawn = torch.randn(len(coalition), size, generator=knowledge.generator)
        length = self.noise * norm(copied)
        noise = torch.stack([row * (length / max(norm(row), 1e-300)) for row in drawn])
        return send(coalition, copied.to(coalition.deltas) + noise.to(coalition.deltas))
