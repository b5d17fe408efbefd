"""Pairwise distances between client updates, without loss of precision late in training."""

from __future__ import annotations

import torch
from torch import Tensor

_COORDINATES_PER_BLOCK = 1 << 16
_CANCELLATION = 1e-4


def gram_matrix(rows: Tensor, center: Tensor | None = None) -> Tensor:
    """Return the (K, K) float64 Gram matrix of (K, D) rows, accumulated in float64.

    Blocks of coordinates are widened one at a time, so no float64 copy of the matrix is made.

    Parameters
    ----------
    rows : Tensor
        (K, D) vectors.
    center : Tensor, optional
        (D,) what is subtracted from every row first, in float64.
    """
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for start in range(0, rows.shape[1], _COORDINATES_PER_BLOCK):
        wide = rows[:, start : start + _COORDINATES_PER_BLOCK].to(torch.float64)
        if center is not None:
            wide = wide - center[start : start + _COORDINATES_PER_BLOCK].to(torch.float64)
        gram.addmm_(wide, wide.T)
    return (gram + gram.T) / 2


def row_norms(rows: Tensor, center: Tensor | None = None) -> Tensor:
    """Return the (K,) float64 Euclidean norms of (K, D) rows, minus `center` (D,) if given."""
    squares = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    for start in range(0, rows.shape[1], _COORDINATES_PER_BLOCK):
        wide = rows[:, start : start + _COORDINATES_PER_BLOCK].to(torch.float64)
        if center is not None:
            wide = wide - center[start : start + _COORDINATES_PER_BLOCK].to(torch.float64)
        squares += wide.square().sum(dim=1)
    return squares.sqrt()


def squared_distances(rows: Tensor, gram: Tensor | None = None) -> Tensor:
    """Return the (K, K) float64 squared Euclidean distances of (K, D) rows.

    Taken from the Gram matrix. Where two rows lie so close together that the subtraction would
    cancel their digits, they are measured again from a row of their own group; so a large common
    part costs no precision, and no single row, however large, spoils the others' distances.
    """
    if gram is None:
        gram = gram_matrix(rows)
    squared = _from_gram(gram)
    norms = gram.diagonal()
    close = squared < _CANCELLATION * (norms[:, None] + norms[None, :])
    for group in _groups(close):
        members = rows if len(group) == len(rows) else rows[group]
        squared[group[:, None], group] = _from_gram(gram_matrix(members, members[0]))
    return squared


def _from_gram(gram: Tensor) -> Tensor:
    norms = gram.diagonal()
    squared = norms[:, None] + norms[None, :] - 2.0 * gram
    return squared.clamp_(min=0.0).fill_diagonal_(0.0)


def _groups(close: Tensor) -> list[Tensor]:
    """Return the row numbers of each connected component of two or more rows."""
    left = set(range(len(close)))
    groups = []
    while left:
        found: set[int] = set()
        frontier = {left.pop()}
        while frontier:
            found |= frontier
            reached = close[sorted(frontier)].any(dim=0).nonzero().flatten().tolist()
            frontier = set(reached) - found
        left -= found
        if len(found) > 1:
            groups.append(torch.tensor(sorted(found), device=close.device))
    return groups


def cosine_distances(gram: Tensor) -> Tensor:
    """Return the (K, K) cosine distances, 0 to 2; 1 to and from a zero row, 0 on the diagonal."""
    norms = gram.diagonal().clamp(min=0.0).sqrt()
    scale = norms[:, None] * norms[None, :]
    cosine = torch.where(scale > 0, gram / scale.clamp(min=torch.finfo(gram.dtype).tiny), 0.0)
    return (1.0 - cosine.clamp(-1.0, 1.0)).fill_diagonal_(0.0)
