"""Compiled kernels: sorting networks and inner products on tiles that stay in cache.

A tile is a (K, width) block of the matrix. A sorting network is a fixed list of compare-exchanges
of two rows, so it sorts all columns of a tile at once with vector minima and maxima. Comparators
that the wanted ranks do not depend on are left out. Each coordinate's result depends on its own
column only: neither the tiles nor the number of threads can change it.

Importing this module and calling a first kernel takes about a second, once per process, most of it
in numba; the compiled code is kept on disk between runs.
`fedguard.strategies.toolkit.coordinates` imports it for matrices that are worth that.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from fedguard.strategies.toolkit.mixture import Mixture
from fedguard.strategies.toolkit.sorting_networks import sorting_network

_TILE_WIDTH = 1024
_TILE_ENTRIES = 1 << 17
"""At most so many float32 in a tile: half a megabyte, within a core's second-level cache."""

_GRAM_SLABS = 8
"""Slabs of columns that a Gram matrix is summed over; fixed, so that threads change no digit."""

_SUM_WIDTH = 1 << 15
"""Columns that squares are summed over at a time; the center's stay in the second-level cache."""


def compiled(function: Any, fastmath: Any = False) -> Any:
    """Compile a kernel without Python's lock; keep the code on disk where that can be written."""
    try:
        return njit(nogil=True, cache=True, fastmath=fastmath)(function)
    except RuntimeError:  # no writable place for the cache
        return njit(nogil=True, fastmath=fastmath)(function)


def reassociated(function: Any) -> Any:
    """Compile like `compiled`, and let sums be taken in vector lanes."""
    return compiled(function, {"reassoc", "contract"})


# Rows are read as `flat[row * stride + column]`, so that one compiled version serves views as well.
# The last tile of a slab reaches back into the one before it: every tile has the full width.


@compiled
def _load(flat, stride, terms, weights, start, tile):  # type: ignore[no-untyped-def]
    """Fill a tile with the columns from `start` on of ``sum_m weights[k, m] rows[terms[k, m]]``."""
    width = tile.shape[1]
    for k in range(tile.shape[0]):
        at, weight = terms[k, 0] * stride + start, weights[k, 0]
        into = tile[k]
        into[:] = flat[at : at + width]
        if weight != 1.0:
            for c in range(width):
                into[c] *= weight
        for m in range(1, terms.shape[1]):
            at, weight = terms[k, m] * stride + start, weights[k, m]
            row = flat[at : at + width]
            for c in range(width):
                into[c] += weight * row[c]


@compiled
def _sort(tile, network):  # type: ignore[no-untyped-def]
    """Sort the columns of a tile by compare-exchange of whole rows."""
    width = tile.shape[1]
    for at in range(network.shape[0]):
        low, high = network[at, 0], network[at, 1]
        for c in range(width):
            x, y = tile[low, c], tile[high, c]
            tile[low, c] = x if x < y else y
            tile[high, c] = x if x > y else y


@compiled
def _central_mean(flat, stride, terms, weights, network, first, last, out, start, end, width):  # type: ignore[no-untyped-def]
    tile = np.empty((terms.shape[0], width), dtype=np.float32)
    total = np.empty(width, dtype=np.float64)
    for wanted in range(start, end, width):
        at = min(wanted, end - width)
        _load(flat, stride, terms, weights, at, tile)
        _sort(tile, network)
        total[:] = 0.0
        for k in range(first, last):
            for c in range(width):
                total[c] += tile[k, c]
        for c in range(width):
            out[at + c] = total[c] / (last - first)


@compiled
def _mean_around_median(flat, stride, terms, weights, network, nearest, out, start, end, width):  # type: ignore[no-untyped-def]
    count = terms.shape[0]
    tile = np.empty((count, width), dtype=np.float32)
    median, reach, total = np.empty(width), np.empty(width), np.empty(width)
    inside = np.empty(width)
    for wanted in range(start, end, width):
        at = min(wanted, end - width)
        _load(flat, stride, terms, weights, at, tile)
        _sort(tile, network)
        for c in range(width):
            low, high = tile[(count - 1) // 2, c], tile[count // 2, c]
            median[c] = (np.float64(low) + np.float64(high)) / 2.0
            reach[c], total[c], inside[c] = np.inf, 0.0, 0.0
        # The nearest values are neighbours in sorted order: take the window of least reach.
        for k in range(count - nearest + 1):
            for c in range(width):
                below = median[c] - tile[k, c]
                above = tile[k + nearest - 1, c] - median[c]
                furthest = below if below > above else above
                reach[c] = furthest if furthest < reach[c] else reach[c]
        for k in range(count):
            for c in range(width):
                value = np.float64(tile[k, c])
                near = abs(value - median[c]) <= reach[c]
                total[c] += value if near else 0.0
                inside[c] += 1.0 if near else 0.0
        for c in range(width):
            out[at + c] = total[c] / max(inside[c], 1.0)


@compiled
def _sign_votes(flat, stride, index, votes, agreeing, start, end, width):  # type: ignore[no-untyped-def]
    for at in range(start, end, width):
        stop = min(at + width, end)
        vote = votes[at:stop]
        vote[:] = 0.0
        for k in range(index.shape[0]):
            row = flat[index[k] * stride + at : index[k] * stride + stop]
            for c in range(stop - at):
                up = np.float32(1.0) if row[c] > 0.0 else np.float32(0.0)
                down = np.float32(1.0) if row[c] < 0.0 else np.float32(0.0)
                vote[c] += up - down
        for k in range(index.shape[0]):
            row = flat[index[k] * stride + at : index[k] * stride + stop]
            same = np.int32(0)
            for c in range(stop - at):
                up, down = row[c] > 0.0, row[c] < 0.0
                same += np.int32((up == (vote[c] > 0.0)) & (down == (vote[c] < 0.0)))
            agreeing[k] += same


@reassociated
def _inner_products(tile, i, j, gram):  # type: ignore[no-untyped-def]
    """Add the 4 x 4 inner products of the tile's rows i.. and j.. to `gram`, held in registers."""
    s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = 0.0
    s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = 0.0
    for c in range(tile.shape[1]):
        a0, a1, a2, a3 = tile[i, c], tile[i + 1, c], tile[i + 2, c], tile[i + 3, c]
        b0, b1, b2, b3 = tile[j, c], tile[j + 1, c], tile[j + 2, c], tile[j + 3, c]
        s00, s01, s02, s03 = s00 + a0 * b0, s01 + a0 * b1, s02 + a0 * b2, s03 + a0 * b3
        s10, s11, s12, s13 = s10 + a1 * b0, s11 + a1 * b1, s12 + a1 * b2, s13 + a1 * b3
        s20, s21, s22, s23 = s20 + a2 * b0, s21 + a2 * b1, s22 + a2 * b2, s23 + a2 * b3
        s30, s31, s32, s33 = s30 + a3 * b0, s31 + a3 * b1, s32 + a3 * b2, s33 + a3 * b3
    sums = ((s00, s01, s02, s03), (s10, s11, s12, s13), (s20, s21, s22, s23), (s30, s31, s32, s33))
    for a in range(4):
        for b in range(4):
            gram[i + a, j + b] += sums[a][b]


@compiled
def _gram(flat, stride, index, center, gram, start, end, width):  # type: ignore[no-untyped-def]
    """Add the upper triangle of the Gram matrix of columns `start` to `end`, in float64."""
    tile = np.zeros((gram.shape[0], width))
    for at in range(start, end, width):
        size = min(width, end - at)
        if size < width:
            tile[:, :] = 0.0
        for k in range(index.shape[0]):
            row = flat[index[k] * stride + at : index[k] * stride + at + size]
            if center.shape[0] > 0:
                for c in range(size):
                    tile[k, c] = row[c] - center[at + c]
            else:
                for c in range(size):
                    tile[k, c] = row[c]
        for i in range(0, gram.shape[0], 4):
            for j in range(i, gram.shape[0], 4):
                _inner_products(tile, np.uint64(i), np.uint64(j), gram)


@reassociated
def _square_sums(flat, stride, index, center, sums, start, end):  # type: ignore[no-untyped-def]
    """Write the rows' sums of squares over columns `start` to `end`, in float64."""
    for k in range(index.shape[0]):
        row = flat[index[k] * stride + start : index[k] * stride + end]
        total = 0.0
        if center.shape[0] > 0:
            middle = center[start:end]
            for c in range(end - start):
                gap = np.float64(row[c]) - middle[c]
                total += gap * gap
        else:
            for c in range(end - start):
                total += np.float64(row[c]) * np.float64(row[c])
        sums[k] = total


class _Rows:
    """Rows of a float32 matrix as the kernels read them, and how to walk over its columns."""

    def __init__(self, rows: Tensor, index: Tensor | None) -> None:
        rows = rows.detach()
        if rows.shape[1] > 1 and rows.stride(1) != 1:
            rows = rows.contiguous()
        self.columns = rows.shape[1]
        self.stride = np.uint64(rows.stride(0) if len(rows) > 1 else self.columns)
        span = (len(rows) - 1) * int(self.stride) + self.columns
        self.flat = rows.as_strided((span,), (1,)).numpy()
        chosen = np.arange(len(rows)) if index is None else index.cpu().numpy()
        self.index = chosen.astype(np.uint64)

    def terms(self) -> tuple[Any, ...]:
        """Return what `_load` reads each chosen row from: itself, once."""
        weights = np.ones((len(self.index), 1), dtype=np.float32)
        return self.flat, self.stride, self.index[:, None], weights

    def walk(self, kernel: Callable[[int, int, int], None]) -> None:
        """Call ``kernel(start, end, tile width)`` on one slab of columns per thread."""
        width = max(1, min(_TILE_WIDTH, _TILE_ENTRIES // len(self.index)))
        slabs = max(1, min(torch.get_num_threads(), self.columns // (4 * width)))
        cuts = [self.columns * at // slabs for at in range(slabs + 1)]

        def run(at: int) -> None:
            start, end = cuts[at], cuts[at + 1]
            kernel(start, end, min(width, end - start))

        _in_threads(run, slabs)


def _in_threads(task: Callable[[int], None], count: int) -> None:
    """Call ``task(0) .. task(count - 1)`` on as many threads as PyTorch uses.

    The threads live for this call only, so that a process can fork between rounds.
    """
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        for at in range(count):
            task(at)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(task, range(count)))


class _Sums(_Rows):
    """Rows that are sums of few rows of a matrix: they are added up where a tile is filled."""

    def __init__(self, mixture: Mixture, index: Tensor | None) -> None:
        matrix = mixture.matrix.detach().cpu()
        super().__init__(cast(Tensor, mixture.rows), torch.arange(len(matrix)))
        most = int((matrix != 0).sum(dim=1).max())
        terms = (matrix != 0).to(torch.uint8).argsort(dim=1, descending=True, stable=True)
        self._terms = terms[:, :most]
        self._weights = matrix.gather(1, self._terms)
        if index is not None:
            self._terms, self._weights = self._terms[index], self._weights[index]
        self.index = np.arange(len(self._terms), dtype=np.uint64)

    def terms(self) -> tuple[Any, ...]:
        """Return what `_load` reads each row from: the rows it sums, by their coefficients."""
        terms = self._terms.numpy().astype(np.uint64)
        return self.flat, self.stride, terms, np.ascontiguousarray(self._weights.numpy())


def central_mean(
    rows: Tensor | Mixture, first: int, last: int, index: Tensor | None = None
) -> Tensor:
    """Return the (D,) mean of ranks `first` to `last` (excluded) of (K, D) float32 CPU rows.

    Parameters
    ----------
    rows : Tensor or Mixture
        (K, D) float32 in main memory, or a mixture of such, without its tail.
    first, last : int
        Ranks among the chosen rows.
    index : Tensor, optional
        Which rows count; all if left out.
    """
    view = _view(rows, index)
    network = sorting_network(len(view.index), first, last)
    out = torch.empty(view.columns)
    target, source = out.numpy(), view.terms()
    view.walk(lambda *slab: _central_mean(*source, network, first, last, target, *slab))
    return out


def mean_around_median(rows: Tensor | Mixture, nearest: int, index: Tensor | None = None) -> Tensor:
    """Return the (D,) mean of the `nearest` values to the median, ties in; see `central_mean`."""
    view = _view(rows, index)
    network = sorting_network(len(view.index), 0, len(view.index))
    out = torch.empty(view.columns)
    target, source = out.numpy(), view.terms()
    view.walk(lambda *slab: _mean_around_median(*source, network, nearest, target, *slab))
    return out


def sign_votes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (D,) sums of signs of (K, D) rows, and (K,) how many entries agree with them."""
    view = _Rows(rows, None)
    votes = torch.empty(view.columns)
    target, source = votes.numpy(), (view.flat, view.stride, view.index)
    found: list[NDArray[np.int64]] = []

    def count(*slab: int) -> None:
        part = np.zeros(len(view.index), dtype=np.int64)
        found.append(part)
        _sign_votes(*source, target, part, *slab)

    view.walk(count)
    return votes, torch.from_numpy(np.sum(found, axis=0))


def gram_matrix(rows: Tensor, center: Tensor | None = None, index: Tensor | None = None) -> Tensor:
    """Return the (K, K) float64 Gram matrix of (K, D) float32 CPU rows minus `center` (D,).

    Every entry is summed in the same order, wherever its rows stand: copies stay exactly equal.
    """
    view = _Rows(rows, index)
    count, middle = len(view.index), _wide(center)
    padded = -(-count // 4) * 4
    cuts = [view.columns * at // _GRAM_SLABS for at in range(_GRAM_SLABS + 1)]
    parts = np.zeros((_GRAM_SLABS, padded, padded))
    width = max(64, min(512, _TILE_ENTRIES // 4 // padded))

    def run(at: int) -> None:
        source = view.flat, view.stride, view.index
        _gram(*source, middle, parts[at], cuts[at], cuts[at + 1], width)

    _in_threads(run, _GRAM_SLABS)
    upper = np.triu(parts.sum(axis=0)[:count, :count])
    return torch.from_numpy(upper + np.triu(upper, 1).T)


def square_sums(rows: Tensor, center: Tensor | None = None) -> Tensor:
    """Return the (K,) float64 squared norms of (K, D) float32 CPU rows minus `center` (D,)."""
    view, middle = _Rows(rows, None), _wide(center)
    edges = [*range(0, view.columns, _SUM_WIDTH), view.columns]
    parts = np.zeros((len(edges) - 1, len(view.index)))

    def run(at: int) -> None:
        source = view.flat, view.stride, view.index
        _square_sums(*source, middle, parts[at], edges[at], edges[at + 1])

    _in_threads(run, len(parts))
    return torch.from_numpy(parts.sum(axis=0))


def _view(rows: Tensor | Mixture, index: Tensor | None) -> _Rows:
    return _Rows(rows, index) if isinstance(rows, Tensor) else _Sums(rows, index)


def _wide(center: Tensor | None) -> NDArray[np.float64]:
    if center is None:
        return np.empty(0)
    return center.detach().cpu().to(torch.float64).contiguous().numpy()
