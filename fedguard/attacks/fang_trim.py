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
    r"""Send, per coordinate, values just beyond the honest ones, against their direction.

    Coordinates without a direction stay at the mean. Each member draws its own values.

    Fang, Cao, Jia and Gong, "Local Model Poisoning Attacks to Byzantine-Robust Federated
    Learning", USENIX Security 2020. Works on models, global plus update, as the paper does: the
    step is in proportion to the weight. Where one update is visible its absolute values stand in
    for sigma.

    Parameters
    ----------
    b : float
        Reach beyond the honest range, above 1; 2 in the paper.

    Notes
    -----
    .. math::
       \text{full knowledge:} \quad w + d_j' \sim \begin{cases}
       U[a / b, \, a] & \text{if } s_j = 1, \; a > 0 \\
       U[b a, \, a] & \text{if } s_j = 1, \; a \le 0 \\
       U[c, \, b c] & \text{if } s_j = -1, \; c > 0 \\
       U[c, \, c / b] & \text{if } s_j = -1, \; c \le 0 \end{cases}

    .. math::
       \text{partial:} \quad d_j' \sim U[\mu_j - 4 s_j \sigma_j, \; \mu_j - 3 s_j \sigma_j]

    where j is a coordinate, w the global model there, a and c the least and greatest of the honest
    models, :math:`\mu_j` and :math:`\sigma_j` mean and deviation of the honest updates,
    :math:`s_j = \operatorname{sign} \mu_j`, and U the uniform distribution between its bounds.

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
