"""LASA: layer-adaptive sparsified model aggregation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedguard.errors import check_number
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.toolkit.averaging import clip_factors, median, with_buffer_median
from fedguard.strategies.toolkit.distances import shared_norms
from fedguard.updates import ClientUpdates, Verdict

_ENTRIES_PER_BLOCK = 1 << 18


def size_limits(rows: Tensor, share: float) -> Tensor:
    """Return the (K,) smallest size among the `share` largest entries by size of each row."""
    dropped = rows.shape[1] - max(1, round(share * rows.shape[1]))
    limits = torch.empty(len(rows), dtype=rows.dtype, device=rows.device)
    for at, row in enumerate(rows):
        sizes = row.abs()
        if sizes.device.type == "cpu":  # NumPy's selection is the faster one
            sizes.numpy().partition(dropped)
            limits[at] = sizes[dropped]
        else:
            limits[at] = sizes.kthvalue(dropped + 1).values
    return limits


def sparse_blocks(rows: Tensor, limits: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield blocks of columns of (K, T) rows with the entries smaller than `limits` (K,) set to 0.

    Blocks, because a whole second matrix would double the memory of a round.
    """
    width = max(1, _ENTRIES_PER_BLOCK // max(len(rows), 1))
    for start in range(0, rows.shape[1], width):
        block = rows[:, start : start + width]
        sparse = torch.where(block.abs() >= limits[:, None], block, 0.0)
        yield slice(start, start + block.shape[1]), sparse


def layer_statistics(rows: Tensor, limits: Tensor) -> tuple[Tensor, Tensor]:
    """Return (K,) norms and (K,) sign purities of one layer's sparse rows.

    Sign purity is ``(1 + sum sign / sum |sign|) / 2``, the share of positive among non-zeros.
    """
    squares, balance, total = torch.zeros(3, len(rows), dtype=torch.float64, device=rows.device)
    for _, block in sparse_blocks(rows, limits):
        squares += block.to(torch.float64).square().sum(dim=1)
        positive, negative = (block > 0).sum(dim=1), (block < 0).sum(dim=1)
        balance += positive - negative
        total += positive + negative
    return squares.sqrt(), 0.5 * (1.0 + balance / total.clamp(min=1.0))


def median_z(values: Tensor) -> Tensor:
    """Return (K,) distances from the median in standard deviations; 0 where all are equal."""
    gap = (values - median(values)).abs()
    std = values.std(unbiased=False)
    return torch.where(std > 1e-9 * values.abs().max(), gap / std.clamp(min=1e-300), 0.0)


class LASA(RobustStrategy):
    r"""Sparsify updates, then average every layer over the clients that look usual in it.

    1. clip updates to their median norm, keep each one's largest entries;
    2. in every layer keep the clients whose norm and whose sign purity lie within `norm_radius` and
       `sign_radius` standard deviations of the median;
    3. average the layer over them.

    A reading of Xu, Zhang and Hu, "Achieving Byzantine-Resilient Federated Learning via
    Layer-Adaptive Sparsified Model Aggregation", WACV 2025. A layer is one parameter tensor. A
    layer in which nobody passes both tests takes its clients by the norm alone. A client's weight
    is its share over all layers, by size.

    Parameters
    ----------
    kept_share : float
        Share of entries each update keeps, in (0, 1].
    norm_radius, sign_radius : float
        In standard deviations, above 0.

    Notes
    -----
    .. math::
       S_l = \left\{ k : \frac{|n_k^l - \operatorname{med} n^l|}{\operatorname{std} n^l} \le r_n, \;
       \frac{|p_k^l - \operatorname{med} p^l|}{\operatorname{std} p^l} \le r_s \right\}, \qquad
       \delta^l = \frac{1}{|S_l|} \sum_{k \in S_l} x_k^l

    .. math::
       n_k^l = \lVert x_k^l \rVert, \qquad
       p_k^l = \frac{1}{2} \left( 1 + \frac{\sum_d \operatorname{sign} x_{kd}^l}
       {\sum_d |\operatorname{sign} x_{kd}^l|} \right)

    where :math:`x_k^l` is layer l of client k's update, clipped to the median norm and cut to its
    `kept_share` largest entries, and :math:`r_n`, :math:`r_s` are the two radii.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies import LASA
    >>> from fedguard.updates import ClientUpdates
    >>> rows = [[1.0, 0.1], [1.0, 0.1], [1.0, -0.1], [-1.0, 0.1]]
    >>> updates = ClientUpdates.from_matrix(torch.tensor(rows))
    >>> verdict = LASA(kept_share=0.5).decide(updates)
    >>> [round(value, 3) for value in verdict.delta.tolist()]
    [1.0, 0.0]
    >>> sorted(verdict.reasons)
    [3]
    """

    properties: ClassVar[frozenset[str]] = frozenset({"robust", "scale"})

    def __init__(
        self,
        *,
        kept_share: float = 0.7,
        norm_radius: float = 2.0,
        sign_radius: float = 1.0,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        check_number("kept_share", kept_share, above=0.0, at_most=1.0)
        check_number("norm_radius", norm_radius, above=0.0)
        check_number("sign_radius", sign_radius, above=0.0)
        self.kept_share = kept_share
        self.norm_radius = norm_radius
        self.sign_radius = sign_radius

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the layer-wise mean of the usual clients; see `RobustStrategy.combine`."""
        layout, count = updates.layout, len(updates)
        norms = shared_norms(updates)
        factors = clip_factors(norms, median(norms)).to(torch.float32)
        limits = size_limits(updates.trainable, self.kept_share)
        mean = torch.zeros(layout.num_trainable, device=updates.deltas.device)
        weights = torch.zeros(count, dtype=torch.float64)
        for start, end in zip(
            layout.offsets[: layout.num_trainable_tensors], layout.offsets[1:], strict=False
        ):
            layer = updates.deltas[:, start:end]
            keep = self._usual(*layer_statistics(layer, limits), factors)
            share = keep.to(torch.float64) / int(keep.sum())
            for at, block in sparse_blocks(layer, limits):
                mean[start:end][at] = (share.to(torch.float32) * factors) @ block
            weights += share * (end - start) / layout.num_trainable
        reasons = {
            updates.node_ids[row]: "unusual norm or signs in every layer"
            for row in (weights == 0).nonzero().flatten().tolist()
        }
        scores = {"norm": norms, "layer_share": weights}
        return Verdict(with_buffer_median(updates, mean), weights, scores, reasons)

    def _usual(self, norms: Tensor, purities: Tensor, factors: Tensor) -> Tensor:
        by_norm = median_z(norms * factors) <= self.norm_radius
        both = by_norm & (median_z(purities) <= self.sign_radius)
        return next((mask for mask in (both, by_norm) if bool(mask.any())), torch.ones_like(both))
