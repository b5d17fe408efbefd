"""Pairwise distances between client updates, without loss of precision late in training."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from fedguard.strategies.toolkit.coordinates import worth_compiling
from fedguard.strategies.toolkit.mixture import Rows, trainable_rows
from fedguard.updates import ClientUpdates

_COORDINATES_PER_BLOCK = 1 << 14
_CANCELLATION = 1e-4


def shared_gram(updates: ClientUpdates) -> Tensor:
    """Return `gram_matrix` of the trainable deltas, computed once per round; do not write to it."""
    if "gram" not in updates.shared:
        updates.shared["gram"] = gram_matrix(trainable_rows(updates))
    return updates.shared["gram"]


def shared_norms(updates: ClientUpdates) -> Tensor:
    """Return `row_norms` of the trainable deltas, computed once per round; do not write to it."""
    if "norms" not in updates.shared:
        found = updates.shared.get("gram")
        norms = row_norms(trainable_rows(updates)) if found is None else found.diagonal().sqrt()
        updates.shared["norms"] = norms
    return updates.shared["norms"]


def shared_distances(updates: ClientUpdates) -> Tensor:
    """Return `squared_distances` of the trainable deltas, computed once; do not write to it."""
    if "squared_distances" not in updates.shared:
        squared = squared_distances(trainable_rows(updates), shared_gram(updates))
        updates.shared["squared_distances"] = squared
    return updates.shared["squared_distances"]


def gram_matrix(rows: Rows, center: Tensor | None = None, index: Tensor | None = None) -> Tensor:
    """Return the (K, K) float64 Gram matrix of (K, D) rows, accumulated in float64.

    Blocks of coordinates are widened one at a time, so no float64 copy of the matrix is made.

    Parameters
    ----------
    rows : Tensor, Mixture or StoredRows
        (K, D) vectors.
    center : Tensor, optional
        (D,) what is subtracted from every row first, in float64.
    index : Tensor, optional
        Numbers of the rows that count; all if left out.
    """
    if not isinstance(rows, Tensor):
        count = len(rows) if index is None else len(index)
        total = torch.zeros(count, count, dtype=torch.float64, device=rows.device)
        for found in rows.each(
            lambda at: partial(gram_matrix, center=_part(center, at), index=index)
        ):
            total += found
        return total
    if worth_compiling(rows):
        from fedguard.strategies.toolkit import kernels

        return kernels.gram_matrix(rows, center, index)
    count = len(rows) if index is None else len(index)
    gram = torch.zeros(count, count, dtype=torch.float64, device=rows.device)
    for start in range(0, rows.shape[1], _COORDINATES_PER_BLOCK):
        wide = _wide_block(rows, start, center, index)
        gram.addmm_(wide, wide.T)
    return (gram + gram.T) / 2


def row_norms(rows: Rows, center: Tensor | None = None) -> Tensor:
    """Return the (K,) float64 Euclidean norms of (K, D) rows, minus `center` (D,) if given."""
    if not isinstance(rows, Tensor):
        norms = list(rows.each(lambda at: partial(row_norms, center=_part(center, at))))
        return torch.stack(norms).square().sum(dim=0).sqrt()
    if worth_compiling(rows):
        from fedguard.strategies.toolkit import kernels

        return kernels.square_sums(rows, center).sqrt()
    squares = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    for start in range(0, rows.shape[1], _COORDINATES_PER_BLOCK):
        squares += _wide_block(rows, start, center, None).square().sum(dim=1)
    return squares.sqrt()


def _part(center: Tensor | None, at: slice) -> Tensor | None:
    """Return some columns of a center, without what lies beside them: it may have to travel."""
    return None if center is None else center[at].clone()


def _wide_block(rows: Tensor, start: int, center: Tensor | None, index: Tensor | None) -> Tensor:
    """Return a block of columns in float64, as the chosen rows minus the center."""
    columns = slice(start, start + _COORDINATES_PER_BLOCK)
    wide = (rows[:, columns] if index is None else rows[index, columns]).to(torch.float64)
    return wide if center is None else wide - center[columns].to(torch.float64)


def distances_to_combination(gram: Tensor, shares: Tensor) -> Tensor:
    """Return the (K,) distances of the rows x from ``sum_k shares_k x_k``, from inner products.

    ``|x_i - sum_k a_k x_k|^2 = G_ii - 2 (G a)_i + a' G a``
    """
    product = gram @ shares
    return (gram.diagonal() - 2.0 * product + shares @ product).clamp(min=0.0).sqrt()


def squared_distances(rows: Rows, gram: Tensor | None = None) -> Tensor:
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
        index = None if len(group) == len(rows) else group
        first = int(group[0])
        center = rows[first] if isinstance(rows, Tensor) else rows.row(first)
        squared[group[:, None], group] = _from_gram(gram_matrix(rows, center, index))
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
