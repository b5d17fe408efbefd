"""Order statistics over clients in every coordinate, read in blocks that stay in cache.

Large float32 matrices in main memory go through the compiled kernels of
`fedguard.strategies.toolkit.kernels`; small ones, which would not pay for loading those, through
NumPy's sort, and matrices on a GPU through PyTorch's. All three give the same order statistics.
"""

from __future__ import annotations

from functools import partial
from typing import TypeGuard

import torch
from torch import Tensor

from fedguard.strategies.toolkit.mixture import Mixture, Rows

_ENTRIES_PER_BLOCK = 1 << 18
_GPU_ENTRIES_PER_BLOCK = 1 << 24

COMPILED_FROM = 1 << 23
"""Entries from which a matrix is worth the compiled kernels: loading them takes a second, once."""

NETWORK_UP_TO = 512
"""Rows up to which a sorting network beats NumPy's sort."""

_FEW_TERMS = 4
"""Rows that a mixed row may sum and still cost less inside a kernel than as a product before it."""


def worth_compiling(rows: Tensor) -> bool:
    """Return whether the compiled kernels take this (K, D) matrix and are worth loading."""
    large = rows.numel() >= COMPILED_FROM
    return large and rows.dtype == torch.float32 and rows.device.type == "cpu"


def _summed_in_kernels(rows: Rows) -> TypeGuard[Mixture]:
    """Return whether the kernels read this mixture from what it is mixed from."""
    if not isinstance(rows, Mixture) or not isinstance(rows.rows, Tensor):
        return False
    if len(rows) > NETWORK_UP_TO or not worth_compiling(rows.rows):
        return False
    return int((rows.matrix != 0).sum(dim=1).max()) <= _FEW_TERMS


def coordinate_median(rows: Rows, index: Tensor | None = None) -> Tensor:
    """Return the (D,) median over (K, D) rows; the mean of the middle two where K is even."""
    count = len(rows) if index is None else len(index)
    return central_mean(rows, (count - 1) // 2, count // 2 + 1, index)


def central_mean(rows: Rows, first: int, last: int, index: Tensor | None = None) -> Tensor:
    """Return the (D,) mean of the sorted values at ranks `first` to `last` (excluded).

    Parameters
    ----------
    rows : Tensor, Mixture or StoredRows
        (K, D) values.
    first, last : int
        Ranks, from 0, among the rows that count.
    index : Tensor, optional
        Numbers of the rows that count; all if left out. Spares a copy of them.
    """
    if _summed_in_kernels(rows):
        from fedguard.strategies.toolkit import kernels

        mixed = kernels.central_mean(rows, first, last, index)
        return torch.cat([mixed, central_mean(rows.tail, first, last, index)])
    if not isinstance(rows, Tensor):
        part = partial(central_mean, first=first, last=last, index=index)
        return torch.cat(list(rows.each(lambda _: part)))
    count = len(rows) if index is None else len(index)
    if count <= NETWORK_UP_TO and worth_compiling(rows):
        from fedguard.strategies.toolkit import kernels

        return kernels.central_mean(rows, first, last, index)
    result = torch.empty(rows.shape[1], dtype=rows.dtype, device=rows.device)
    for start, end in _blocks(rows):
        ordered = _ordered(rows, start, end, index)
        result[start:end] = ordered[:, first:last].mean(dim=1, dtype=torch.float64)
    return result


def mean_around_median(rows: Rows, nearest: int, index: Tensor | None = None) -> Tensor:
    """Return the (D,) mean of the `nearest` values to the median in every coordinate.

    Values that lie as far from the median as the last of them count too: the two sides of the
    median tie wherever K is even, and the order of rows must not decide. `index` is as in
    `central_mean`.
    """
    if _summed_in_kernels(rows):
        from fedguard.strategies.toolkit import kernels

        mixed = kernels.mean_around_median(rows, nearest, index)
        return torch.cat([mixed, mean_around_median(rows.tail, nearest, index)])
    if not isinstance(rows, Tensor):
        part = partial(mean_around_median, nearest=nearest, index=index)
        return torch.cat(list(rows.each(lambda _: part)))
    count = len(rows) if index is None else len(index)
    if count <= NETWORK_UP_TO and worth_compiling(rows):
        from fedguard.strategies.toolkit import kernels

        return kernels.mean_around_median(rows, nearest, index)
    result = torch.empty(rows.shape[1], dtype=rows.dtype, device=rows.device)
    low, high = (count - 1) // 2, count // 2
    for start, end in _blocks(rows):
        ordered = _ordered(rows, start, end, index).to(torch.float64)
        median = ordered[:, low : high + 1].mean(dim=1, keepdim=True)
        gaps = (ordered - median).abs()
        # The nearest values are neighbours in sorted order: take the window of least reach.
        reach = torch.maximum(gaps[:, : count - nearest + 1], gaps[:, nearest - 1 :])
        near = gaps <= reach.amin(dim=1, keepdim=True)
        total = torch.where(near, ordered, 0.0).sum(dim=1)
        result[start:end] = total / near.sum(dim=1)
    return result


def sign_votes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums of signs in every coordinate and how many of a row's signs agree with them.

    Returns
    -------
    tuple of Tensor
        (D,) ``sum_k sign(x_kd)``, and (K,) int64 numbers of coordinates where ``sign(x_kd)`` is
        the sign of that sum.
    """
    if worth_compiling(rows):
        from fedguard.strategies.toolkit import kernels

        return kernels.sign_votes(rows)
    votes = torch.zeros(rows.shape[1], dtype=rows.dtype, device=rows.device)
    agreeing = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    for start, end in _blocks(rows):
        signs = rows[:, start:end].sign()
        votes[start:end] = signs.sum(dim=0)
        agreeing += (signs == votes[start:end].sign()).sum(dim=1)
    return votes, agreeing


def _blocks(rows: Tensor) -> list[tuple[int, int]]:
    entries = _ENTRIES_PER_BLOCK if rows.device.type == "cpu" else _GPU_ENTRIES_PER_BLOCK
    width = max(1, entries // max(len(rows), 1))
    return [(at, min(at + width, rows.shape[1])) for at in range(0, rows.shape[1], width)]


def _ordered(rows: Tensor, start: int, end: int, index: Tensor | None) -> Tensor:
    """Return the (end - start, K) sorted values of a block of columns."""
    block = rows[:, start:end] if index is None else rows[index, start:end]
    block = block.T.contiguous()
    if block.device.type != "cpu":
        return block.sort(dim=1).values
    # NumPy's vectorised sort is about 20 times as fast as PyTorch's on short rows.
    if block.data_ptr() == rows.data_ptr():
        block = block.clone()
    block.numpy().sort(axis=1)
    return block
