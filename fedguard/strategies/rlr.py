"""Robust learning rate (RLR)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch

from fedguard.errors import check_number
from fedguard.strategies.base import RobustStrategy, uniform
from fedguard.strategies.toolkit.averaging import average, clip_factors, median
from fedguard.strategies.toolkit.coordinates import sign_votes
from fedguard.strategies.toolkit.distances import shared_norms
from fedguard.updates import ClientUpdates, Verdict


class RLR(RobustStrategy):
    r"""Step backwards in coordinates on whose sign too few clients agree.

    Ozdayi, Kantarcioglu and Gel, "Defending against Backdoors in Federated Learning with Robust
    Learning Rate", AAAI 2021. A defence against backdoors: the vote counts signs, not sizes, so
    updates are clipped to the median norm before averaging (the paper combines it with clipping
    and noise as well).

    Parameters
    ----------
    agreement : float
        theta as a share of the clients, 0 to 1; the paper uses 4 of 10.
    clip : bool
        Whether updates are clipped to the median norm of the round.

    Notes
    -----
    .. math::
       \delta_d = \frac{\eta_d}{n} \sum_{k=1}^{n} c_k \delta_{kd}, \qquad
       \eta_d = \begin{cases} 1 & \text{if } \left| \sum_k \operatorname{sign} \delta_{kd} \right|
       \ge \lceil \theta n \rceil \\ -1 & \text{otherwise} \end{cases}

    where :math:`\delta_{kd}` is coordinate d of client k's update, n the clients, :math:`\theta`
    the `agreement`, and
    :math:`c_k = \min(1, \operatorname{med}_j \lVert \delta_j \rVert / \lVert \delta_k \rVert)`, or
    1 where `clip` is off.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies import RLR
    >>> from fedguard.updates import ClientUpdates
    >>> rows = [[1.0, 1.0], [2.0, -1.0], [3.0, 3.0]]
    >>> updates = ClientUpdates.from_matrix(torch.tensor(rows))
    >>> verdict = RLR(agreement=0.7, clip=False).decide(updates)
    >>> [round(value, 3) for value in verdict.delta.tolist()]
    [2.0, -1.0]
    """

    properties: ClassVar[frozenset[str]] = frozenset({"robust", "scale"})

    def __init__(self, *, agreement: float = 0.4, clip: bool = True, **base: Any) -> None:
        super().__init__(**base)
        check_number("agreement", agreement, at_least=0.0, at_most=1.0)
        self.agreement = agreement
        self.clip = clip

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the mean with its signs voted on; see `RobustStrategy.combine`."""
        rows, count = updates.trainable, len(updates)
        norms = shared_norms(updates)
        weights = uniform(count)
        delta = average(updates, weights, clip_factors(norms, median(norms)) if self.clip else None)
        votes, agreeing = sign_votes(rows)
        minority = votes.abs() < math.ceil(self.agreement * count - 1e-9)
        delta[: rows.shape[1]][minority] *= -1.0
        with_majority = agreeing.to(torch.float64) / max(rows.shape[1], 1)
        return Verdict(delta, weights, {"sign_agreement": with_majority, "norm": norms})
