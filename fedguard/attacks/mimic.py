"""Mimic: everybody repeats one honest client."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fedguard.attacks.base import Attack, Knowledge
from fedguard.attacks.toolkit.crafting import benign_updates, centred_gram, send
from fedguard.attacks.toolkit.survey import Tags
from fedguard.updates import ClientUpdates


class Mimic(Attack):
    r"""All malicious clients copy the honest client that stands out most.

    It lies furthest out along the direction of the honest updates' largest variance. Each copy is a
    plausible update, but the cohort loses its diversity, which hurts where clients' data differ.

    Karimireddy, He and Jaggi, "Byzantine-Robust Learning on Heterogeneous Datasets via
    Bucketing", ICLR 2022. The paper estimates v over a first phase and then copies one client for
    good; here v is computed anew in each round, because the client may not take part in it. v is
    the first eigenvector of the K x K Gram matrix. Equal clients: the lowest node id.
    With partial knowledge a member of the coalition is copied.

    Notes
    -----
    .. math::
       d' = d_{i^*}, \qquad i^* = \operatorname{argmax}_i |\langle v, d_i - \mu \rangle|, \qquad
       v = \operatorname{argmax}_{\lVert u \rVert = 1} \sum_i \langle u, d_i - \mu \rangle^2

    where :math:`d_i` are the honest updates and :math:`\mu` is their mean.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks import Knowledge
    >>> from fedguard.attacks.mimic import Mimic
    >>> from fedguard.updates import ClientUpdates
    >>> honest = ClientUpdates.from_matrix(torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, 9.0]]))
    >>> coalition = ClientUpdates.from_matrix(torch.tensor([[2.0, 1.0]]), node_ids=[9])
    >>> seen = Knowledge("full", honest, 4, 1, 1, torch.Generator())
    >>> attack = Mimic()
    >>> attack.craft(coalition, seen).tolist()
    [[0.0, 9.0]]
    """

    needs: ClassVar[frozenset[str]] = frozenset({"updates"})
    tags: ClassVar[Tags | None] = Tags(
        edits="model", knowledge="gray", stealth="hidden", variability="dynamic"
    )

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) deltas, one vector for all; see `Attack.craft`."""
        rows = benign_updates(coalition, knowledge).trainable
        if not len(rows):
            return coalition.deltas
        return send(coalition, rows[_furthest_out(rows)])


def _furthest_out(rows: Tensor) -> int:
    """Return the row furthest out along the first principal direction; the first one of equals."""
    share = torch.linalg.eigh(centred_gram(rows)).eigenvectors[:, -1].abs()
    return int((share >= share.max() * (1.0 - 1e-9)).nonzero()[0, 0])
