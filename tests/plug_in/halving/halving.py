from __future__ import annotations

from typing import Any, ClassVar

from fedguard.errors import check_number
from fedguard.strategies import RobustStrategy
from fedguard.updates import ClientUpdates, Verdict


class Halving(RobustStrategy):
    """Average the half of the updates that lie nearest to the coordinate-wise median."""

    properties: ClassVar[frozenset[str]] = frozenset({"robust", "translation", "scale"})

    def __init__(self, *, share: float = 0.5, **base: Any) -> None:
        super().__init__(**base)
        check_number("share", share, above=0.0, at_most=1.0)
        self.share = share

    def combine(self, updates: ClientUpdates) -> Verdict:
        gap = (updates.deltas - updates.deltas.quantile(0.5, dim=0)).norm(dim=1).double()
        keep = gap <= gap.quantile(self.share)
        weights = keep.double() / keep.sum()
        far = [node for node, kept in zip(updates.node_ids, keep, strict=True) if not kept]
        delta = (weights.float() @ updates.deltas).float()
        return Verdict(delta, weights, {"gap": gap}, dict.fromkeys(far, "far from the median"))
