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
