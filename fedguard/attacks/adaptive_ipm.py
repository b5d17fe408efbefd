"""IPM whose factor is searched against the deployed rule."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fedguard.attacks.base import Attack, Knowledge
from fedguard.attacks.toolkit.crafting import visible
from fedguard.attacks.toolkit.rehearsal import send_furthest
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number
from fedguard.updates import ClientUpdates


class AdaptiveIpm(Attack):
    r"""Send ``-epsilon mu`` with the epsilon that moves the deployed rule furthest from the mean.

    By a line search in which the attacker rehearses the round on a copy of the rule.

    Xie, Koyejo and Gupta, "Fall of Empires", UAI 2019, with the line search of Allouah et al.,
    "Fixing by Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity", AISTATS 2023. How a
    round is rehearsed, also with partial knowledge and where the rule cannot be copied, is told at
    `Rehearsal`.

    Parameters
    ----------
    max_epsilon : float
        Largest factor, above 0.
    evaluations : int
        Rehearsals per round, at least 1.

    Notes
    -----
    .. math::
       d' = -\varepsilon^* \mu, \qquad
       \varepsilon^* = \operatorname{argmax}_{0 < \varepsilon \le \varepsilon_{\max}}
       \lVert R(d_1, \ldots, d_h, -\varepsilon \mu, \ldots) - \bar{d} \rVert

    where :math:`\mu` is the mean of the visible updates, :math:`d_1, \ldots, d_h` are those of
    others with the mean :math:`\bar{d}`, and R is the rule's copy.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks import Knowledge
    >>> from fedguard.attacks.adaptive_ipm import AdaptiveIpm
    >>> from fedguard.updates import ClientUpdates
    >>> honest = ClientUpdates.from_matrix(torch.tensor([[1.0, 4.0], [3.0, 4.0]]))
    >>> coalition = ClientUpdates.from_matrix(torch.tensor([[2.0, 1.0]]), node_ids=[9])
    >>> seen = Knowledge("full", honest, 3, 1, 1, torch.Generator())
    >>> attack = AdaptiveIpm(max_epsilon=4.0)
    >>> attack.craft(coalition, seen).tolist()
    [[-8.0, -16.0]]
    """

    needs: ClassVar[frozenset[str]] = frozenset({"updates", "aggregate"})
    tags: ClassVar[Tags | None] = Tags(
        edits="model", knowledge="white", stealth="hidden", variability="dynamic"
    )

    def __init__(self, *, max_epsilon: float = 20.0, evaluations: int = 16) -> None:
        check_number("max_epsilon", max_epsilon, above=0.0)
        check_number("evaluations", evaluations, at_least=1)
        self.max_epsilon = max_epsilon
        self.evaluations = evaluations

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) deltas, one vector for all; see `Attack.craft`."""
        rows = visible(coalition, knowledge)
        if not len(rows):
            return coalition.deltas
        mean = rows.mean(dim=0)
        return send_furthest(
            coalition,
            knowledge,
            lambda epsilon: -epsilon * mean,
            self.max_epsilon,
            self.evaluations,
        )
