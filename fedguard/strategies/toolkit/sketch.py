"""Linear sketches: what a rule remembers of the updates of earlier rounds, an eighth of their size.

A sketch keeps inner products, and so norms, distances and cosines, and it is linear: sketches add
up as the vectors do. That is all that a rule needs that compares rounds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedguard.randomness import SERVER, numpy_generator

EXACT_UP_TO = 1 << 16
"""Vectors up to this length are kept as they are."""

COMPRESSION = 8
"""How many times shorter than a long vector its sketch is."""


def sketch(rows: Tensor, seed: int) -> Tensor:
    """Return (K, m) float32 sketches of (K, T) rows; a copy of the rows where T is small.

    ``y_j = sum_{d = j mod m} s_d x_d`` with independent random signs s. Inner products are
    unbiased, ``<y, y'> = <x, x'>`` up to about ``|x| |x'| / sqrt(m)``, which is 0.4 % at the
    shortest. Equal rows have equal sketches.

    Charikar, Chen and Farach-Colton, "Finding Frequent Items in Data Streams", ICALP 2002, with
    the hash replaced by the remainder.

    Parameters
    ----------
    rows : Tensor
        (K, T) vectors.
    seed : int
        Seed of the signs, the same for all vectors that are compared.
    """
    total = rows.shape[1]
    if total <= EXACT_UP_TO:
        return rows.to(torch.float32, copy=True)
    size = max(EXACT_UP_TO, -(-total // COMPRESSION))
    signs = numpy_generator(seed, 0, SERVER, "sketch").integers(0, 2, total, dtype="int8")
    factors = torch.from_numpy(2 * signs - 1).to(rows)
    result = torch.zeros(len(rows), size, dtype=torch.float32, device=rows.device)
    for start in range(0, total, size):
        part = rows[:, start : start + size]
        result[:, : part.shape[1]].addcmul_(part, factors[None, start : start + size])
    return result
