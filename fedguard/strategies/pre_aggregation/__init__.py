"""Pre-aggregation: what is done to the updates before a rule sees them, one file each."""

from __future__ import annotations

from collections.abc import Callable

from fedguard.errors import unknown_name
from fedguard.strategies.pre_aggregation.arc import AdaptiveClipping
from fedguard.strategies.pre_aggregation.base import PreAggregation, combine_after
from fedguard.strategies.pre_aggregation.bucketing import Bucketing
from fedguard.strategies.pre_aggregation.chain import Chain, chain
from fedguard.strategies.pre_aggregation.clipping import Clipping
from fedguard.strategies.pre_aggregation.nnm import NearestNeighbourMixing
from fedguard.strategies.pre_aggregation.touched_rows import TouchedRows

__all__ = [
    "PRE_AGGREGATIONS",
    "AdaptiveClipping",
    "Bucketing",
    "Chain",
    "Clipping",
    "NearestNeighbourMixing",
    "PreAggregation",
    "TouchedRows",
    "chain",
    "combine_after",
    "make_pre_aggregation",
]

PRE_AGGREGATIONS: dict[str, Callable[..., PreAggregation]] = {
    "arc": AdaptiveClipping,
    "bucketing": Bucketing,
    "clipping": Clipping,
    "nnm": NearestNeighbourMixing,
    "touched-rows": TouchedRows,
}
"""Names of the pre-aggregations."""


def make_pre_aggregation(
    name: str, *, assumed_malicious: float = 0.25, seed: int = 0
) -> PreAggregation:
    """Return a pre-aggregation by its name in `PRE_AGGREGATIONS`, with what it takes of the rest.

    Raises
    ------
    ConfigurationError
        If there is none of that name.
    """
    if name not in PRE_AGGREGATIONS:
        raise unknown_name("pre", name, PRE_AGGREGATIONS)
    if name == "bucketing":
        return Bucketing(seed=seed)
    if name == "clipping":
        return Clipping()
    if name == "touched-rows":
        return TouchedRows()
    return PRE_AGGREGATIONS[name](assumed_malicious=assumed_malicious)
