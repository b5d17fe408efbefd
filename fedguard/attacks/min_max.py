"""Min-Max: as far as the two most distant honest updates are from each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedguard.attacks.base import Attack, Knowledge
from fedguard.attacks.toolkit.crafting import (
    centred_blocks,
    centred_gram,
    gram_distances,
    norm,
    send,
    spread,
    visible,
)
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_choice
from fedguard.updates import ClientUpdates

Direction = Literal["std", "unit", "sign"]

_DIRECTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "std": lambda mean, rows: -spread(rows),
    "unit": lambda mean, rows: -mean / max(norm(mean), torch.finfo(torch.float32).tiny),
    "sign": lambda mean, rows: -mean.sign(),
}


class DirectedAttack(Attack):
    """All malicious clients send ``mu + gamma p``; subclasses bound gamma by distances.

    Parameters
    ----------
    direction : str
        p: ``"std"`` is minus the standard deviation of the visible honest updates, ``"unit"``
        minus their mean divided by its norm, ``"sign"`` minus the sign of their mean.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"updates"})
    tags: ClassVar[Tags | None] = Tags(
        edits="model", knowledge="gray", stealth="hidden", variability="dynamic"
    )

    def __init__(self, *, direction: Direction = "std") -> None:
        check_choice("direction", direction, _DIRECTIONS)
        self.direction = direction

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) deltas, one vector for all; see `Attack.craft`."""
        rows = visible(coalition, knowledge)
        if not len(rows):
            return coalition.deltas
        mean = rows.mean(dim=0)
        push = _DIRECTIONS[self.direction](mean, rows)
        size = norm(push) ** 2
        if not size > 0.0:
            return send(coalition, mean)
        gamma = self._one_row(mean, size) if len(rows) == 1 else self._gamma(rows, push, size)
        return send(coalition, mean + gamma * push)

    def _one_row(self, mean: Tensor, size: float) -> float:
        return norm(mean) / math.sqrt(size)

    def _gamma(self, rows: Tensor, push: Tensor, size: float) -> float:
        raise NotImplementedError


def products(rows: Tensor, push: Tensor) -> Tensor:
    """Return the (K,) float64 inner products of ``mean - d_i`` with `push`."""
    total = rows.new_zeros(len(rows), dtype=torch.float64)
    for columns, block in centred_blocks(rows):
        total -= block @ push[columns].to(torch.float64)
    return total


class MinMax(DirectedAttack):
    r"""Go as far from the mean as keeps every honest update within the honest diameter.

    Shejwalkar and Houmansadr, "Manipulating the Byzantine: Optimizing Model Poisoning Attacks and
    Defenses for Federated Learning", NDSS 2021. The paper bisects on gamma; each bound is a
    quadratic in gamma, so it is solved instead, and gamma is the smallest of the K positive roots.
    Where one update is visible there is no diameter; the update's own norm stands in for it (and
    its absolute values for the standard deviation). Identical honest updates leave no room:
    gamma is 0.

    Parameters
    ----------
    direction : str
        ``"std"``, ``"unit"`` or ``"sign"``; see `DirectedAttack`.

    Notes
    -----
    .. math::
       d' = \mu + \gamma p, \qquad
       \gamma = \max \left\{ \gamma : \max_i \lVert \mu + \gamma p - d_i \rVert
       \le \max_{i, j} \lVert d_i - d_j \rVert \right\}

    where :math:`d_i` are the visible honest updates, :math:`\mu` their mean, and p is
    :math:`-\sigma`, :math:`-\mu / \lVert \mu \rVert` or :math:`-\operatorname{sign} \mu` by
    `direction`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks import Knowledge
    >>> from fedguard.attacks.min_max import MinMax
    >>> from fedguard.updates import ClientUpdates
    >>> honest = ClientUpdates.from_matrix(torch.tensor([[4.0, 0.0], [8.0, 0.0]]))
    >>> coalition = ClientUpdates.from_matrix(torch.tensor([[2.0, 1.0]]), node_ids=[9])
    >>> seen = Knowledge("full", honest, 3, 1, 1, torch.Generator())
    >>> attack = MinMax(direction="unit")
    >>> attack.craft(coalition, seen).tolist()
    [[4.0, 0.0]]
    """

    def _gamma(self, rows: Tensor, push: Tensor, size: float) -> float:
        gram = centred_gram(rows)
        slack = (gram_distances(gram).max() - gram.diagonal()).clamp(min=0.0)
        half = products(rows, push)
        root = (half.square() + size * slack).sqrt()
        # The form without cancellation: (root - half) / size where half < 0.
        gammas = torch.where(half > 0, slack / (root + half), (root - half) / size)
        return float(gammas.nan_to_num(0.0).min())
