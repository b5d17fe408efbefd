"""Pairwise distances between client updates, without loss of precision late in training."""

from __future__ import annotations

import torch
from torch import Tensor

_COORDINATES_PER_BLOCK = 1 << 16


def gram_matrix(rows: Tensor) -> Tensor:
    """Return the (K, K) float64 Gram matrix of (K, D) rows, accumulated in float64.

    Blocks of coordinates are widened one at a time, so no float64 copy of the matrix is made.
    """
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for block in rows.split(_COORDINATES_PER_BLOCK, dim=1):
        wide = block.to(torch.float64)
        gram.addmm_(wide, wide.T)
    return gram


def squared_distances(rows: Tensor, gram: Tensor | None = None) -> Tensor:
    """Return the (K, K) float64 squared Euclidean distances of (K, D) rows.

    Computed from the Gram matrix of the rows minus their coordinate-wise first row, which keeps
    the cancellation small when all updates share a large common part.
    """
    if gram is None:
        gram = gram_matrix(rows - rows[:1]) if len(rows) else rows.new_zeros(0, 0).double()
    norms = gram.diagonal()
    squared = norms[:, None] + norms[None, :] - 2.0 * gram
    return squared.clamp_(min=0.0).fill_diagonal_(0.0)


def cosine_distances(gram: Tensor) -> Tensor:
    """Return the (K, K) cosine distances, 0 to 2; 1 to and from a zero row, 0 on the diagonal."""
    norms = gram.diagonal().clamp(min=0.0).sqrt()
    scale = norms[:, None] * norms[None, :]
    cosine = torch.where(scale > 0, gram / scale.clamp(min=torch.finfo(gram.dtype).tiny), 0.0)
    return (1.0 - cosine.clamp(-1.0, 1.0)).fill_diagonal_(0.0)
