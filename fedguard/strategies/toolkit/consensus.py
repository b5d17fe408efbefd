"""What a round's clients together think of examples whose labels nobody knows."""

from __future__ import annotations

from dataclasses import replace

import torch

from fedguard.strategies.toolkit.averaging import clip_factors, median
from fedguard.strategies.toolkit.distances import shared_norms
from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.strategies.toolkit.server_validation import load_average
from fedguard.updates import ClientUpdates


def with_consensus_labels(tools: ServerTools, updates: ClientUpdates) -> ServerTools:
    """Return the tools with labels by the round's clients in place of the true ones.

    The label of an example is what the mean of all clients' updates, clipped to their median norm,
    says of it: ``argmax f(x; global + mean_i d_i min(1, median|d| / |d_i|))``. The true labels are
    not read. The tools' model is overwritten.
    """
    norms = shared_norms(updates)
    typical = float(median(norms))
    factors = clip_factors(norms, typical) if typical > 0.0 else torch.ones_like(norms)
    load_average(
        tools,
        updates,
        torch.ones(len(updates), dtype=torch.bool),
        torch.ones(len(updates), dtype=torch.float64),
        factors,
    )
    with torch.no_grad():
        believed = tools.model(tools.x).argmax(dim=1)
    return replace(tools, y=believed)
