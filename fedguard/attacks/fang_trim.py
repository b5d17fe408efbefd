"""Fang's attack on the trimmed mean and the median."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fedguard.attacks.base import Attack, Knowledge
from fedguard.attacks.toolkit.crafting import benign_updates, send, spread
from fedguard.attacks.toolkit.survey import Tags
from fedguard.errors import check_number
from fedguard.updates import ClientUpdates


class FangTrim(Attack):
    """Send, per coordinate, values just beyond the honest ones, against their direction.

    With honest models w_i, s the sign of the honest mean update and b > 1, full knowledge draws
    each coordinate uniformly

    - where s > 0: from ``[min w / b, min w]`` if ``min w > 0``, else ``[b min w, min w]``;
    - where s < 0: from ``[max w, b max w]`` if ``max w > 0``, else ``[max w, max w / b]``;

    partial knowledge from ``[mu - 4 sigma, mu - 3 sigma]`` or ``[mu + 3 sigma, mu + 4 sigma]``.
    Coordinates without a direction (s = 0) stay at the mean. Each member draws its own values.

    Fang, Cao, Jia and Gong, "Local Model Poisoning Attacks to Byzantine-Robust Federated
    Learning", USENIX Security 2020. Works on models, global plus update, as the paper does: the
    step is in proportion to the weight. Where one update is visible its absolute values stand in
    for sigma.

    Parameters
    ----------
    b : float
        Reach beyond the honest range, above 1; 2 in the paper.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks import Knowledge
    >>> from fedguard.attacks.fang_trim import FangTrim
    >>> from fedguard.updates import ClientUpdates
    >>> honest = ClientUpdates.from_matrix(torch.tensor([[4.0, -4.0], [6.0, -6.0]]))
    >>> coalition = ClientUpdates.from_matrix(torch.tensor([[2.0, 1.0]]), node_ids=[9])
    >>> seen = Knowledge("full", honest, 3, 1, 1, torch.Generator())
    >>> attack = FangTrim(b=2.0)
    >>> crafted = attack.craft(coalition, seen)[0]
    >>> 2.0 <= float(crafted[0]) <= 4.0, -4.0 <= float(crafted[1]) <= -2.0
    (True, True)
    """

    needs: ClassVar[frozenset[str]] = frozenset({"updates"})
    tags: ClassVar[Tags | None] = Tags(
        edits="model", knowledge="gray", stealth="hidden", variability="dynamic"
    )

    def __init__(self, *, b: float = 2.0) -> None:
        check_number("b", b, above=1.0)
        self.b = b

    def craft(self, coalition: ClientUpdates, knowledge: Knowledge) -> Tensor:
        """Return the (F, D) deltas; see `Attack.craft`."""
        rows = benign_updates(coalition, knowledge).trainable
        if not len(rows):
            return coalition.deltas
        mean = rows.mean(dim=0)
        near, far = (
            self._beyond_range(rows, mean, coalition.global_vector[: len(mean)])
            if knowledge.scope == "full"
            else _beyond_spread(mean, spread(rows))
        )
        draw = torch.rand(coalition.trainable.shape, generator=knowledge.generator)
        crafted = near + draw * (far - near)
        return send(coalition, torch.where(mean == 0.0, mean, crafted))

    def _beyond_range(self, rows: Tensor, mean: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Return nearest and furthest value per coordinate, as updates of the model `start`."""
        near = torch.where(mean > 0.0, rows.amin(dim=0), rows.amax(dim=0))
        model = start + near
        outwards = (model > 0.0) == (mean < 0.0)
        far = torch.where(outwards, model * self.b, model / self.b)
        return near, near + (far - model)


def _beyond_spread(mean: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    away = -mean.sign() * sigma
    return mean + 3.0 * away, mean + 4.0 * away
