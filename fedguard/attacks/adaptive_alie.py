"""ALIE whose shift is searched against the deployed rule."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fedguard.attacks.base import Attack, Knowledge
from fedguard.attacks.toolkit.crafting import spread, visible
from fedguard.attacks.toolkit.rehearsal import send_furthest
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number
from fedguard.updates import ClientUpdates


class AdaptiveAlie(Attack):
    r"""Send ``mu - z sigma`` with the z that moves the deployed rule furthest from the mean.

    By a line search in which the attacker rehearses the round on a copy of the rule.

    Baruch, Baruch and Goldberg, "A Little Is Enough", NeurIPS 2019, with the line search of
    Allouah et al., "Fixing by Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity",
    AISTATS 2023. How a round is rehearsed, also with partial knowledge and where the rule cannot
    be copied, is told at `Rehearsal`.

    Parameters
    ----------
    max_z : float
        Largest shift in standard deviations, above 0.
    evaluations : int
        Rehearsals per round, at least 1.

    Notes
    -----
    .. math::
       d' = \mu - z^* \sigma, \qquad
       z^* = \operatorname{argmax}_{0 < z \le z_{\max}} \lVert R(d_1, \ldots, d_h,
       \mu - z \sigma, \ldots) - \bar{d} \rVert

    where :math:`\mu` and :math:`\sigma` are mean and standard deviation of the visible updates,
    :math:`d_1, \ldots, d_h` those of others with the mean :math:`\bar{d}`, and R is the rule's
    copy.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks import Knowledge
    >>> from fedguard.attacks.adaptive_alie import AdaptiveAlie
    >>> from fedguard.updates import ClientUpdates
    >>> honest = ClientUpdates.from_matrix(torch.tensor([[1.0, 4.0], [3.0, 4.0]]))
    >>> coalition = ClientUpdates.from_matrix(torch.tensor([[2.0, 1.0]]), node_ids=[9])
    >>> seen = Knowledge("full", honest, 3, 1, 1, torch.Generator())
    >>> attack = AdaptiveAlie(max_z=4.0)
    >>> attack.craft(coalition, seen).tolist()
    [[-2.0, 4.0]]
    """

    needs: ClassVar[frozenset[str]] = frozenset({"updates", "aggregate"})
    tags: ClassVar[Tags | None] = Tags(
        edits="model", knowledge="white", stealth="hidden", variability="dynamic"
    )

    def __init__(self, *, max_z: float = 10.0, evaluations: int = 16) -> None:
        check_number("max_z", max_z, above=0.0)
        check_number("evaluations", evaluations, at_least=1)
        self.max_z = max_z
        self.evaluations = evaluations

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) deltas, one vector for all; see `Attack.craft`."""
        rows = visible(coalition, knowledge)
        if not len(rows):
            return coalition.deltas
        mean, sigma = rows.mean(dim=0), spread(rows)
        return send_furthest(
            coalition, knowledge, lambda z: mean - z * sigma, self.max_z, self.evaluations
        )
