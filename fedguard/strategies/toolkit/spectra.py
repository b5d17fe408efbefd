"""Directions of largest spread, computed from distances alone."""

from __future__ import annotations

import torch
from torch import Tensor


def centered_gram(squared: Tensor, weights: Tensor) -> Tensor:
    """Return the (K, K) Gram matrix of rows around their weighted mean.

    ``-1/2 (I - 1 w') D (I - w 1')`` for squared distances D and weights w that add up to 1.

    Parameters
    ----------
    squared : Tensor
        (..., K, K) squared distances.
    weights : Tensor
        (K,) or (..., K), at least 0, sum 1.
    """
    row = (squared @ weights.unsqueeze(-1)).squeeze(-1)
    total = (row * weights).sum(dim=-1)[..., None, None]
    return -0.5 * (squared - row[..., :, None] - row[..., None, :] + total)


def top_projections(squared: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest eigenvalue of the weighted covariance and the rows' projections on it.

    Parameters
    ----------
    squared : Tensor
        (K, K) squared distances.
    weights : Tensor
        (K,) at least 0, sum 1.

    Returns
    -------
    tuple of Tensor
        The eigenvalue, and (K,) squared projections of the centred rows on its eigenvector, for
        rows of weight 0 as well.
    """
    gram = centered_gram(squared, weights)
    root = weights.sqrt()
    values, vectors = torch.linalg.eigh(root[:, None] * gram * root[None, :])
    value = values[-1].clamp(min=0.0)
    # Rounding is as large as the distances that the weights leave in; a row of weight 0 has none.
    if float(value) <= 1e-12 * float((root[:, None] * squared * root[None, :]).max()):
        return torch.zeros_like(value), torch.zeros_like(weights)
    # v = sum_k root_k u_k x_k / sqrt(value), so <x_i, v> = (G diag(root) u)_i / sqrt(value).
    return value, (gram @ (root * vectors[:, -1])).square() / value
