"""FedSECA: elect a sign in every coordinate, then average what is left of those who agree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedguard.errors import check_number
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.toolkit.averaging import (
    clip_factors,
    median,
    rejections,
    with_buffer_median,
)
from fedguard.strategies.toolkit.coordinates import coordinate_median
from fedguard.strategies.toolkit.distances import shared_norms
from fedguard.updates import ClientUpdates, Verdict

_ENTRIES_PER_BLOCK = 1 << 18


def _blocks(rows: Tensor) -> Iterator[slice]:
    width = max(1, _ENTRIES_PER_BLOCK // max(len(rows), 1))
    for start in range(0, rows.shape[1], width):
        yield slice(start, min(start + width, rows.shape[1]))


def concordance(rows: Tensor) -> Tensor:
    """Return the (K, K) float64 ``mean_d sign(x_id) sign(x_jd)`` of (K, T) rows."""
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for columns in _blocks(rows):
        signs = rows[:, columns].sign().to(torch.float32)
        total += signs @ signs.T  # whole numbers below 2^24: exact in float32
    return total / max(rows.shape[1], 1)


def reputations(concordances: Tensor) -> Tensor:
    """Return (K,) ``max(0, mean_j sign(omega_ij))``; all 1 where nobody's is above 0."""
    found = concordances.sign().mean(dim=1).clamp(min=0.0)
    return found if bool((found > 0).any()) else torch.ones_like(found)


class FedSECA(RobustStrategy):
    r"""Elect signs by clients who agree with most others; average small, agreeing entries.

    1. a client's reputation is how many others' signs agree with its own; the signs of a
       coordinate, weighed by it, elect one;
    2. clip every update to the median norm, bring each entry down to the median size of its
       coordinate, and keep each client's `kept_share` largest entries;
    3. in every coordinate average the entries left whose sign is the elected one.

    A reading of Benjamin et al., "FedSECA: Sign Election and Coordinate-wise Aggregation of
    Gradients for Byzantine Tolerant Federated Learning", CVPR 2025, from its formulas as others
    implement them. Momentum on the aggregate is left out. Where nobody agrees with others more
    than it differs, all reputations are 1 (ours; the paper's would leave the model for good). A
    client's weight is its share of the entries that were averaged.

    Parameters
    ----------
    kept_share : float
        Share of each update's entries that are kept, in (0, 1]; 0.1 in the paper.

    Notes
    -----
    .. math::
       \rho_i = \max\left( 0, \frac{1}{n} \sum_j \operatorname{sign} \omega_{ij} \right), \quad
       \omega_{ij} = \frac{1}{D} \sum_d \operatorname{sign}(\delta_{id})
       \operatorname{sign}(\delta_{jd}), \quad s_d = \operatorname{sign} \sum_i \rho_i
       \operatorname{sign} \delta_{id}

    .. math::
       a_{id} = \min\left( c_i |\delta_{id}|, \operatorname{med}_j c_j |\delta_{jd}| \right),
       \qquad c_i = \min\left( 1, \frac{\operatorname{med}_j \lVert \delta_j \rVert}{\lVert
       \delta_i \rVert} \right)

    .. math::
       \delta_d = \frac{s_d}{|A_d|} \sum_{i \in A_d} a_{id}, \qquad
       A_d = \{ i : \operatorname{sign} \delta_{id} = s_d \ne 0, \; a_{id} \ge q_i \}

    where :math:`\delta_{id}` is coordinate d of D of client i's update, n the clients, and
    :math:`q_i` the least of the `kept_share` largest :math:`a_{id}` of client i.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies import FedSECA
    >>> from fedguard.updates import ClientUpdates
    >>> rows = [[1.0, 2.0], [1.0, 4.0], [3.0, -2.0], [-1.0, -4.0]]
    >>> updates = ClientUpdates.from_matrix(torch.tensor(rows))
    >>> verdict = FedSECA(kept_share=1.0).decide(updates)
    >>> [round(value, 3) for value in verdict.delta.tolist()]
    [0.958, 2.437]
    >>> sorted(verdict.reasons)
    [3]
    """

    properties: ClassVar[frozenset[str]] = frozenset({"robust", "scale"})

    def __init__(self, *, kept_share: float = 0.1, **base: Any) -> None:
        super().__init__(**base)
        check_number("kept_share", kept_share, above=0.0, at_most=1.0)
        self.kept_share = kept_share

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the mean of the agreeing entries; see `RobustStrategy.combine`."""
        rows = updates.trainable
        norms = shared_norms(updates)
        factors = clip_factors(norms, median(norms)).to(rows.dtype)[:, None]
        reputation = reputations(concordance(rows))
        caps = torch.cat([coordinate_median(rows[:, at].abs() * factors) for at in _blocks(rows)])
        limits = self._limits(rows, factors, caps)
        mean = torch.zeros(rows.shape[1], device=rows.device)
        used = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
        for at in _blocks(rows):
            signs = rows[:, at].sign()
            sizes = torch.minimum(rows[:, at].abs() * factors, caps[at])
            elected = (reputation @ signs.to(torch.float64)).sign().to(rows.dtype)
            counts = (signs == elected) & (signs != 0) & (sizes >= limits[:, None])
            total = torch.where(counts, sizes, 0.0).sum(dim=0, dtype=torch.float64)
            mean[at] = elected * (total / counts.sum(dim=0).clamp(min=1)).to(torch.float32)
            used += counts.sum(dim=1)
        weights = used / used.sum().clamp(min=1.0)
        reasons = rejections(updates, weights, lambda row: "no entry has the elected sign")
        scores = {"reputation": reputation, "norm": norms}
        if not bool((weights > 0).any()):
            return Verdict(torch.zeros(updates.layout.size), weights, scores, reasons)
        return Verdict(with_buffer_median(updates, mean), weights, scores, reasons)

    def _limits(self, rows: Tensor, factors: Tensor, caps: Tensor) -> Tensor:
        """Return the (K,) smallest size that each client keeps."""
        dropped = rows.shape[1] - max(1, round(self.kept_share * rows.shape[1]))
        found = torch.empty(len(rows), dtype=rows.dtype, device=rows.device)
        for place, factor in enumerate(factors):
            sizes = torch.minimum(rows[place].abs() * factor, caps)
            found[place] = sizes.kthvalue(dropped + 1).values
        return found
