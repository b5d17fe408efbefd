"""How a rule that weighs or selects whole clients turns its weights into one update."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fedguard.strategies.toolkit.coordinates import coordinate_median
from fedguard.strategies.toolkit.mixture import Mixture, all_rows, combination, trainable_rows
from fedguard.updates import ClientUpdates

TIE = 1e-9
"""Relative difference below which two scores count as equal."""


def average(updates: ClientUpdates, weights: Tensor, factors: Tensor | None = None) -> Tensor:
    """Return the (D,) float32 sum of the clients' deltas by `weights`.

    Buffers, which no distance or norm looks at, take the coordinate-wise median of all clients
    instead: nobody can hide a huge BatchNorm statistic behind well-behaved parameters.

    Parameters
    ----------
    updates : ClientUpdates
        The round's updates.
    weights : Tensor
        (K,) at least 0; they add up to 1, or are all 0 (then the result is 0).
    factors : Tensor, optional
        (K,) by what each client's trainable delta is multiplied, as clipping does.
    """
    share = weights if factors is None else weights * factors
    mean = combination(trainable_rows(updates), share)
    if not bool((weights > 0).any()):
        return torch.zeros(updates.layout.size, device=mean.device)
    return with_buffer_median(updates, mean)


def with_buffer_median(updates: ClientUpdates, trainable: Tensor) -> Tensor:
    """Return (T,) trainable values followed by the coordinate-wise median of the buffers, (D,)."""
    count = updates.layout.num_trainable
    if count == updates.layout.size:
        return trainable
    rows = all_rows(updates)
    buffers = rows.tail if isinstance(rows, Mixture) else rows[:, count:]
    return torch.cat([trainable, coordinate_median(buffers)])


def equal_weights(keep: Tensor) -> Tensor:
    """Return (K,) float64 weights: the same for every kept client, 0 for the others."""
    return keep.to(torch.float64) / max(int(keep.sum()), 1)


def clip_factors(norms: Tensor, bound: float | Tensor) -> Tensor:
    """Return the (K,) factors ``min(1, bound / norm)`` that bring norms down to `bound`."""
    return (bound / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1.0)


def median(values: Tensor) -> Tensor:
    """Return the median of (N,) values; the mean of the middle two where N is even."""
    ordered = values.sort().values
    return (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2


def beyond_the_others(harm: Tensor, evidence: float) -> float:
    """Return the harm above which one of (N,) harms is unlike the others.

    ``m + evidence s`` with m the median and ``s = 1.4826 median(m - h_i)`` over the harms below it:
    the spread of the better half, in which attackers that do harm are not.
    """
    middle = float(median(harm))
    below = middle - harm[harm <= middle]
    return middle + evidence * 1.4826 * float(median(below))


def lowest(scores: Tensor, wanted: int) -> Tensor:
    """Return the (K,) mask of the `wanted` lowest scores, at least one and at most K.

    Scores that tie with the last one are in too, so that the order of clients decides nothing.
    """
    limit = scores.sort().values[min(max(wanted, 1), len(scores)) - 1]
    return scores <= limit + TIE * limit.abs()


def rejections(
    updates: ClientUpdates, weights: Tensor, describe: Callable[[int], str]
) -> dict[int, str]:
    """Return node id to `describe(row)` for every client whose weight is 0."""
    return {
        updates.node_ids[row]: describe(row)
        for row, weight in enumerate(weights.tolist())
        if weight == 0.0
    }
