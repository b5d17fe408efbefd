"""AlignIns: directions of the update as a whole and of its principal signs."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from fedguard.errors import check_number
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.lasa import median_z, size_limits, sparse_blocks
from fedguard.strategies.toolkit.averaging import (
    average,
    clip_factors,
    equal_weights,
    median,
    rejections,
)
from fedguard.strategies.toolkit.coordinates import sign_votes
from fedguard.strategies.toolkit.distances import shared_norms
from fedguard.updates import ClientUpdates, Verdict


def temporal_alignment(updates: ClientUpdates) -> Tensor:
    """Return (K,) float64 cosines of each update with the global model; 0 where one is zero."""
    start = updates.global_vector[: updates.layout.num_trainable].to(torch.float64)
    products = torch.stack([row.to(torch.float64) @ start for row in updates.trainable])
    scale = shared_norms(updates) * start.norm()
    cosines: Tensor = torch.where(scale > 0, products / scale.clamp(min=1e-300), 0.0)
    return cosines.clamp(-1.0, 1.0)


def principal_sign_alignment(rows: Tensor, share: float) -> Tensor:
    """Return (K,) float64 shares of each row's largest entries that have the elected sign.

    Parameters
    ----------
    rows : Tensor
        (K, T) updates; the elected sign of a coordinate is that of the sum of all rows' signs.
    share : float
        Share of a row's entries that count, the largest by size, in (0, 1].
    """
    elected = sign_votes(rows)[0].sign()
    limits = size_limits(rows, share)
    agreeing, counted = torch.zeros(2, len(rows), dtype=torch.float64, device=rows.device)
    for columns, block in sparse_blocks(rows, limits):
        large = rows[:, columns].abs() >= limits[:, None]
        agreeing += ((block.sign() == elected[columns]) & large).sum(dim=1)
        counted += large.sum(dim=1)
    shares: Tensor = agreeing / counted.clamp(min=1.0)
    return shares


class AlignIns(RobustStrategy):
    r"""Keep clients whose update is aligned with the model and the others as most updates are.

    1. `tda`, the cosine of the update and the global model;
    2. `mpsa`, the share of the update's largest entries that have the elected sign;
    3. keep the clients near the median on both;
    4. mean of the kept ones, clipped to their median norm; the model stays where nobody is kept.

    A reading of Xu, Zhang and Hu, "Detecting Backdoor Attacks in Federated Learning via Direction
    Alignment Inspection", CVPR 2025, by its formulas. Where all clients agree on a measure their
    distance is 0. A z-score below 1 leaves out about a third of the clients on each measure,
    attacked or not; where honest clients are dissimilar it can be more than half
    (``"dissimilar-exempt"``).

    Parameters
    ----------
    sign_share : float
        Share of an update's entries whose signs are compared, in (0, 1]; 0.3 in the paper.
    tda_radius, mpsa_radius : float
        In standard deviations, above 0; 1 in the paper.

    Notes
    -----
    .. math::
       a_k = \cos(\delta_k, w), \qquad
       b_k = \frac{1}{|T_k|} \left| \left\{ d \in T_k : \operatorname{sign} \delta_{kd}
       = \operatorname{sign} \sum_j \operatorname{sign} \delta_{jd} \right\} \right|

    .. math::
       S = \left\{ k : \frac{|a_k - \operatorname{med} a|}{\operatorname{std} a} < r_a, \;
       \frac{|b_k - \operatorname{med} b|}{\operatorname{std} b} < r_b \right\}

    .. math::
       \delta = \frac{1}{|S|} \sum_{k \in S} \delta_k \min\left( 1, \frac{\operatorname{med}_{j \in
       S} \lVert \delta_j \rVert}{\lVert \delta_k \rVert} \right)

    where :math:`\delta_k` is client k's update, w the global model, :math:`T_k` the `sign_share`
    largest entries of :math:`\delta_k` by size, :math:`r_a` and :math:`r_b` the two radii.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies import AlignIns
    >>> from fedguard.updates import ClientUpdates
    >>> rows = [[3.0, 4.0], [3.0, 4.0], [6.0, 8.0], [3.0, 4.0], [-4.0, 3.0]]
    >>> updates = ClientUpdates.from_matrix(torch.tensor(rows), global_vector=torch.ones(2))
    >>> verdict = AlignIns(sign_share=1.0).decide(updates)
    >>> [round(value, 3) for value in verdict.delta.tolist()]
    [3.0, 4.0]
    >>> sorted(verdict.reasons)
    [4]
    """

    properties: ClassVar[frozenset[str]] = frozenset({"robust", "scale", "dissimilar-exempt"})

    def __init__(
        self,
        *,
        sign_share: float = 0.3,
        tda_radius: float = 1.0,
        mpsa_radius: float = 1.0,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        check_number("sign_share", sign_share, above=0.0, at_most=1.0)
        check_number("tda_radius", tda_radius, above=0.0)
        check_number("mpsa_radius", mpsa_radius, above=0.0)
        self.sign_share = sign_share
        self.tda_radius = tda_radius
        self.mpsa_radius = mpsa_radius

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the clipped mean of the aligned clients; see `RobustStrategy.combine`."""
        tda = temporal_alignment(updates)
        mpsa = principal_sign_alignment(updates.trainable, self.sign_share)
        far = (median_z(tda) >= self.tda_radius, median_z(mpsa) >= self.mpsa_radius)
        keep = ~(far[0] | far[1])
        weights = equal_weights(keep)
        norms = shared_norms(updates)
        bound = median(norms[keep]) if bool(keep.any()) else norms.new_zeros(())
        measures = (("cosine with the model", tda), ("share of elected signs", mpsa))

        def reason(row: int) -> str:
            name, values = measures[0] if bool(far[0][row]) else measures[1]
            return f"{name} {values[row]:.3f}, median {median(values):.3f}"

        delta = average(updates, weights, clip_factors(norms, bound))
        reasons = rejections(updates, weights, reason)
        return Verdict(delta, weights, {"tda": tda, "mpsa": mpsa, "norm": norms}, reasons)
