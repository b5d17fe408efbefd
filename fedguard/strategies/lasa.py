"""LASA: layer-adaptive sparsified model aggregation."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from fedguard.errors import check_number
from fedguard.strategies.averaging import clip_factors, median
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.coordinates import coordinate_median
from fedguard.strategies.distances import row_norms
from fedguard.updates import ClientUpdates, Verdict


def sparsify(rows: Tensor, share: float) -> Tensor:
    """Return rows with all but the `share` largest entries by size set to 0; ties stay."""
    kept = max(1, round(share * rows.shape[1]))
    result = torch.zeros_like(rows)
    for source, target in zip(rows, result, strict=True):
        sizes = source.abs()
        limit = sizes.kthvalue(len(sizes) - kept + 1).values
        target.copy_(torch.where(sizes >= limit, source, 0.0))
    return result


def sign_purity(rows: Tensor) -> Tensor:
    """Return (K,) ``(1 + sum sign / sum |sign|) / 2``: the share of positive among non-zeros."""
    signs = rows.sign()
    total = signs.abs().sum(dim=1, dtype=torch.float64).clamp(min=1.0)
    return 0.5 * (1.0 + signs.sum(dim=1, dtype=torch.float64) / total)


def median_z(values: Tensor) -> Tensor:
    """Return (K,) distances from the median in standard deviations; 0 where all are equal."""
    gap = (values - median(values)).abs()
    std = values.std(unbiased=False)
    return torch.where(std > 1e-9 * values.abs().max(), gap / std.clamp(min=1e-300), 0.0)


class LASA(RobustStrategy):
    """Sparsify updates, then average every layer over the clients that look usual in it.

    1. clip updates to their median norm, keep each one's largest entries;
    2. in every layer keep the clients whose norm and whose sign purity
       ``(1 + sum sign / sum |sign|) / 2`` lie within `norm_radius` and `sign_radius` standard
       deviations of the median;
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
        norms = row_norms(updates.trainable)
        factors = clip_factors(norms, median(norms)).to(torch.float32)
        rows = sparsify(updates.trainable, self.kept_share)
        delta = coordinate_median(updates.deltas)
        weights = torch.zeros(count, dtype=torch.float64)
        for start, end in zip(
            layout.offsets[: layout.num_trainable_tensors], layout.offsets[1:], strict=False
        ):
            keep = self._usual(rows[:, start:end], factors)
            share = keep.to(torch.float64) / int(keep.sum())
            delta[start:end] = (share.to(torch.float32) * factors) @ rows[:, start:end]
            weights += share * (end - start) / layout.num_trainable
        reasons = {
            updates.node_ids[row]: "unusual norm or signs in every layer"
            for row in (weights == 0).nonzero().flatten().tolist()
        }
        return Verdict(delta, weights, {"norm": norms, "layer_share": weights}, reasons)

    def _usual(self, layer: Tensor, factors: Tensor) -> Tensor:
        by_norm = median_z(row_norms(layer) * factors) <= self.norm_radius
        both = by_norm & (median_z(sign_purity(layer)) <= self.sign_radius)
        return next((mask for mask in (both, by_norm) if bool(mask.any())), torch.ones_like(both))
