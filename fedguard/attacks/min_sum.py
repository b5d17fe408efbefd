"""Min-Sum: no further from all honest updates together than the most distant honest one."""

from __future__ import annotations

import math

from torch import Tensor

from fedguard.attacks.min_max import DirectedAttack
from fedguard.attacks.toolkit.crafting import centred_gram, gram_distances


class MinSum(DirectedAttack):
    r"""Go as far from the mean as keeps the summed squared distance within an honest client's.

    Shejwalkar and Houmansadr, "Manipulating the Byzantine: Optimizing Model Poisoning Attacks and
    Defenses for Federated Learning", NDSS 2021. The paper bisects on gamma; the sum around the
    mean is ``sum_i |mu - d_i|^2 + K gamma^2 |p|^2``, so gamma is written down instead. Where one
    update is visible its own norm bounds the step; identical honest updates leave no room.

    Parameters
    ----------
    direction : str
        ``"std"``, ``"unit"`` or ``"sign"``; see `DirectedAttack`.

    Notes
    -----
    .. math::
       d' = \mu + \gamma p, \qquad
       \gamma = \max \left\{ \gamma : \sum_i \lVert \mu + \gamma p - d_i \rVert^2
       \le \max_i \sum_j \lVert d_i - d_j \rVert^2 \right\}

    where :math:`d_i` are the visible honest updates, :math:`\mu` their mean, and p is
    :math:`-\sigma`, :math:`-\mu / \lVert \mu \rVert` or :math:`-\operatorname{sign} \mu` by
    `direction`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.attacks import Knowledge
    >>> from fedguard.attacks.min_sum import MinSum
    >>> from fedguard.updates import ClientUpdates
    >>> honest = ClientUpdates.from_matrix(torch.tensor([[5.0, 0.0], [7.0, 0.0]]))
    >>> coalition = ClientUpdates.from_matrix(torch.tensor([[2.0, 1.0]]), node_ids=[9])
    >>> seen = Knowledge("full", honest, 3, 1, 1, torch.Generator())
    >>> attack = MinSum(direction="unit")
    >>> [[round(value, 4) for value in row] for row in attack.craft(coalition, seen).tolist()]
    [[5.0, 0.0]]
    """

    def _gamma(self, rows: Tensor, push: Tensor, size: float) -> float:
        gram = centred_gram(rows)
        slack = float(gram_distances(gram).sum(dim=1).max() - gram.diagonal().sum())
        return math.sqrt(max(slack, 0.0) / (len(rows) * size))
