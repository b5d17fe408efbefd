"""Fang's attack on Krum."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from fedguard.attacks.base import Attack, Knowledge
from fedguard.attacks.toolkit.crafting import (
    benign_updates,
    centred_gram,
    gram_distances,
    send,
)
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number
from fedguard.updates import ClientUpdates


class FangKrum(Attack):
    r"""Send the largest step against the honest direction that Krum still picks.

    The step starts at its upper bound and is halved until Krum picks the update or the step falls
    below `threshold`. All members send it, so that each supports the others.

    Fang, Cao, Jia and Gong, "Local Model Poisoning Attacks to Byzantine-Robust Federated
    Learning", USENIX Security 2020. With full knowledge c = f. With partial knowledge the
    coalition's own honest updates stand for those of others; c = 1 crafted update is tried first
    and one more each time no lambda is found. Supporters are exact copies (the paper's epsilon of
    0). Distances to ``-lambda s`` follow from ``|d_i|^2`` and ``<d_i, s>``, so halving lambda
    costs nothing in the number of parameters. Without a direction (honest mean of zeros) the
    honest updates are sent.

    Parameters
    ----------
    threshold : float
        Smallest lambda tried, in units of the weights, above 0; 1e-5 in the paper.

    Notes
    -----
    .. math::
       d' = -\lambda s, \qquad s = \operatorname{sign} \bar{d}, \qquad
       \lambda \in \left\{ \bar{\lambda}, \frac{\bar{\lambda}}{2}, \frac{\bar{\lambda}}{4}, \ldots
       \right\} \text{, the first with which Krum picks } d'

    .. math::
       \bar{\lambda} = \sqrt{\frac{\min_i \sum_{j \in N_i} \lVert d_i - d_j \rVert^2}
       {(m - 2 c - 1) T}} + \frac{\max_i \lVert d_i \rVert}{\sqrt{T}}

    where :math:`d_i` are the honest updates and :math:`\bar{d}` their mean, m clients of which c
    are crafted, :math:`N_i` the m - c - 2 nearest to i, and T the coordinates that have a
    direction.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks import Knowledge
    >>> from fedguard.attacks.fang_krum import FangKrum
    >>> from fedguard.updates import ClientUpdates
    >>> honest = ClientUpdates.from_matrix(torch.tensor([[0.0], [10.0], [20.0]]))
    >>> coalition = ClientUpdates.from_matrix(torch.tensor([[10.0], [10.0]]), node_ids=[8, 9])
    >>> seen = Knowledge("full", honest, 5, 2, 1, torch.Generator())
    >>> attack = FangKrum()
    >>> attack.craft(coalition, seen).tolist()
    [[-30.0], [-30.0]]
    """

    needs: ClassVar[frozenset[str]] = frozenset({"updates"})
    tags: ClassVar[Tags | None] = Tags(
        edits="model", knowledge="white", stealth="hidden", variability="dynamic"
    )

    def __init__(self, *, threshold: float = 1e-5) -> None:
        check_number("threshold", threshold, above=0.0)
        self.threshold = threshold

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) deltas, one vector for all; see `Attack.craft`."""
        others = benign_updates(coalition, knowledge)
        if not len(others):
            return coalition.deltas
        rows = others.trainable
        sign = rows.mean(dim=0).sign()
        if not bool(sign.any()):
            return coalition.deltas
        stand_ins = bool(set(others.node_ids) & set(coalition.node_ids))
        first = 1 if stand_ins else len(coalition)
        step = self._step(_World(rows, sign), range(first, len(coalition) + 1))
        return send(coalition, -step * sign)

    def _step(self, world: _World, numbers: range) -> float:
        """Return lambda for the first number of crafted updates for which Krum picks one."""
        step = self.threshold
        for crafted in numbers:
            step = world.upper_bound(crafted)
            while step >= self.threshold:
                if world.krum_picks(step, crafted):
                    return step
                step /= 2.0
        return step


class _World:
    """Honest updates as far as Krum's distances need them."""

    def __init__(self, rows: Tensor, sign: Tensor) -> None:
        self.coordinates = max(int(sign.abs().sum()), 1)
        self.squared = gram_distances(centred_gram(rows))
        self.norms = torch.stack(
            [torch.linalg.vector_norm(row, dtype=torch.float64).square() for row in rows]
        )
        self.along = torch.stack([(row * sign).sum(dtype=torch.float64) for row in rows])

    def upper_bound(self, crafted: int) -> float:
        """Return the largest lambda worth trying with this many crafted updates."""
        honest = len(self.squared)
        reach = math.sqrt(float(self.norms.max()) / self.coordinates)
        if honest == 1:
            return reach
        near = min(max(honest - 2, 1), honest - 1)
        others = self.squared.clone().fill_diagonal_(math.inf)
        spread = float(others.topk(near, dim=1, largest=False).values.sum(dim=1).min())
        return math.sqrt(spread / (max(honest - crafted - 1, 1) * self.coordinates)) + reach

    def krum_picks(self, step: float, crafted: int) -> bool:
        """Return whether a crafted update has the one lowest Krum score.

        One honest and one crafted update always tie; the crafted one then counts as picked.
        """
        honest = len(self.squared)
        away = self.norms + 2.0 * step * self.along + step**2 * self.coordinates
        total = honest + crafted
        squared = self.squared.new_zeros(total, total)
        squared[:honest, :honest] = self.squared
        squared[:honest, honest:] = away[:, None]
        squared[honest:, :honest] = away[None, :]
        squared.fill_diagonal_(math.inf)
        near = min(max(total - crafted - 2, 1), total - 1)
        scores = squared.topk(near, dim=1, largest=False).values.sum(dim=1)
        lowest = scores[:honest].min()
        return bool(scores[honest] < lowest) or total == 2
