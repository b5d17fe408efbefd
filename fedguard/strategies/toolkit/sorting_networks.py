"""Sorting networks: fixed lists of compare-exchanges that bring some ranks into place."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Network = NDArray[np.uint64]


@lru_cache(maxsize=64)
def sorting_network(count: int, first: int, last: int) -> Network:
    """Return the comparators that bring ranks `first` to `last` (excluded) of `count` into place.

    Batcher's odd-even merge sort (Batcher, "Sorting Networks and their Applications", AFIPS 1968),
    without the comparators that no wanted rank depends on.

    Returns
    -------
    ndarray
        (C, 2) rows to compare in this order; the smaller value goes to the first of the two.
    """
    needed = set(range(first, last))
    kept = []
    for low, high in reversed(_odd_even_merge_sort(count)):
        if low in needed or high in needed:
            needed |= {low, high}
            kept.append((low, high))
    return np.array(kept[::-1], dtype=np.uint64).reshape(-1, 2)


def _odd_even_merge_sort(count: int) -> list[tuple[int, int]]:
    pairs = []
    merged = 1
    while merged < count:
        step = merged
        while step >= 1:
            for start in range(step % merged, count - step, 2 * step):
                for low in range(start, min(start + step, count - step)):
                    if low // (2 * merged) == (low + step) // (2 * merged):
                        pairs.append((low, low + step))
            step //= 2
        merged *= 2
    return pairs
