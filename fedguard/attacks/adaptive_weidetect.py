"""Adaptive attack on WeiDetect: as much of a class flip as its score lets through."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fedguard.attacks.base import Knowledge
from fedguard.attacks.label_flip import LabelFlip
from fedguard.attacks.toolkit.crafting import norm, send
from fedguard.attacks.toolkit.rehearsal import Rehearsal, line_search
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number
from fedguard.updates import ClientUpdates


class AdaptiveWeiDetect(LabelFlip):
    r"""Train on a targeted flip and send the multiple of it that gets furthest past the score.

    A reading of "maximise the damage to one class subject to passing the validation score", for
    WeiDetect (arXiv 2504.04367, 2025). The attacker has no copy of the server's validation data
    and so cannot compute the score; it rehearses the round on a copy of the rule R instead, where
    an update that the score rejects contributes nothing. It works against any other rule too. How
    a round is rehearsed is told at `Rehearsal`.

    Parameters
    ----------
    source_class, target_class : int
        Examples of the source class are labelled with the target class.
    poison_fraction : float
        Share of the client's examples of the source class that are flipped, 0 to 1.
    max_scale : float
        Largest multiple, above 0.
    evaluations : int
        Rehearsals per round, at least 1.

    Notes
    -----
    .. math::
       d_i' = \lambda^* d_i, \qquad
       \lambda^* = \operatorname{argmax}_{0 < \lambda \le \lambda_{\max}}
       \left\langle R(h_1, \ldots, \lambda d_1, \ldots, \lambda d_f),
       \frac{u}{\lVert u \rVert} \right\rangle, \qquad
       u = \frac{1}{f} \sum_i d_i - \bar{h}

    where :math:`d_i` is the update that member i of f trained on flipped labels, :math:`h_j` are
    the updates of others, :math:`\bar{h}` is their mean (0 with partial knowledge), and R is the
    rule's copy.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks import Knowledge
    >>> from fedguard.attacks.adaptive_weidetect import AdaptiveWeiDetect
    >>> from fedguard.updates import ClientUpdates
    >>> honest = ClientUpdates.from_matrix(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    >>> coalition = ClientUpdates.from_matrix(torch.tensor([[1.0, 2.0]]), node_ids=[9])
    >>> seen = Knowledge("full", honest, 3, 1, 1, torch.Generator())
    >>> attack = AdaptiveWeiDetect(max_scale=8.0)
    >>> attack.craft(coalition, seen).tolist()
    [[8.0, 16.0]]
    """

    needs: ClassVar[frozenset[str]] = frozenset({"data", "updates", "aggregate"})
    tags: ClassVar[Tags | None] = Tags(
        edits="labels",
        goal="targeted",
        knowledge="white",
        stealth="hidden",
        scope="class",
        variability="dynamic",
        by=("label flip",),
    )

    def __init__(
        self,
        *,
        source_class: int = 0,
        target_class: int = 1,
        poison_fraction: float = 1.0,
        max_scale: float = 8.0,
        evaluations: int = 12,
    ) -> None:
        super().__init__(
            mode="targeted",
            source_class=source_class,
            target_class=target_class,
            poison_fraction=poison_fraction,
        )
        check_number("max_scale", max_scale, above=0.0)
        check_number("evaluations", evaluations, at_least=1)
        self.max_scale = max_scale
        self.evaluations = evaluations

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) scaled deltas; see `Attack.craft`."""
        if not len(coalition):
            return coalition.deltas
        rehearse = Rehearsal(coalition, knowledge)
        direction = coalition.trainable.mean(dim=0)
        if knowledge.scope == "full":
            direction = direction - rehearse.mean
        size = norm(direction)
        if not size > 0.0:
            return coalition.deltas
        unit = (direction / size).to(torch.float64)
        scale = line_search(
            lambda factor: float(rehearse(coalition.trainable * factor).to(torch.float64) @ unit),
            self.max_scale,
            self.evaluations,
        )
        return send(coalition, coalition.trainable * scale)
