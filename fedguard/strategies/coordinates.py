"""Order statistics over clients in every coordinate, read in blocks that stay in cache."""

from __future__ import annotations

import torch
from torch import Tensor

_ENTRIES_PER_BLOCK = 1 << 18


def _blocks(rows: Tensor) -> list[tuple[int, int]]:
    width = max(1, _ENTRIES_PER_BLOCK // max(len(rows), 1))
    return [(at, min(at + width, rows.shape[1])) for at in range(0, rows.shape[1], width)]


def coordinate_median(rows: Tensor) -> Tensor:
    """Return the (D,) median over (K, D) rows; the mean of the middle two where K is even."""
    low, high = (len(rows) - 1) // 2, len(rows) // 2
    return central_mean(rows, low, high + 1)


def central_mean(rows: Tensor, first: int, last: int) -> Tensor:
    """Return the (D,) mean of the sorted values at ranks `first` to `last` (excluded)."""
    result = torch.empty(rows.shape[1], dtype=rows.dtype, device=rows.device)
    for start, end in _blocks(rows):
        ordered = rows[:, start:end].T.contiguous().sort(dim=1).values
        result[start:end] = ordered[:, first:last].mean(dim=1, dtype=torch.float64)
    return result


def mean_around_median(rows: Tensor, nearest: int) -> Tensor:
    """Return the (D,) mean of the `nearest` values to the median in every coordinate.

    Values that lie as far from the median as the last of them count too: the two sides of the
    median tie wherever K is even, and the order of rows must not decide.
    """
    result = torch.empty(rows.shape[1], dtype=rows.dtype, device=rows.device)
    low, high = (len(rows) - 1) // 2, len(rows) // 2
    for start, end in _blocks(rows):
        ordered = rows[:, start:end].T.to(torch.float64).sort(dim=1).values
        median = ordered[:, low : high + 1].mean(dim=1, keepdim=True)
        gaps = (ordered - median).abs()
        reach = gaps.kthvalue(nearest, dim=1, keepdim=True).values
        near = gaps <= reach
        total = torch.where(near, ordered, 0.0).sum(dim=1)
        result[start:end] = total / near.sum(dim=1)
    return result
