"""How good a ranking of a gallery is: average precision, and shares of a class at its top."""

from __future__ import annotations

import torch
from torch import Tensor

TOP = 40
"""Pictures at the top of a ranking that an attack's success counts."""


def similarity(queries: Tensor, gallery: Tensor) -> Tensor:
    """Return the (N, M) float64 similarity by which a gallery is ranked.

    Parameters
    ----------
    queries, gallery : Tensor
        (N, K) and (M, K) outputs u of a hashing network.

    Returns
    -------
    Tensor
        ``sign(u) . sign(v)``, which is K minus twice the Hamming distance; equal ones are told
        apart by ``tanh(u) . tanh(v)``, so that no order of the pictures matters.
    """
    queries, gallery = (torch.nan_to_num(u).double() for u in (queries, gallery))
    codes = [torch.where(u >= 0, 1.0, -1.0).to(u) for u in (queries, gallery)]
    fine = queries.tanh() @ gallery.tanh().T
    return codes[0] @ codes[1].T + fine / (2.0 * queries.shape[1])


def mean_average_precision(scores: Tensor, relevant: Tensor) -> float:
    """Return the mean over queries of the average precision of their whole ranking.

    ``AP = mean over relevant pictures of (relevant ones up to its rank) / rank``.

    Parameters
    ----------
    scores : Tensor
        (N, M) similarities.
    relevant : Tensor
        (N, M) bool; a query with nothing relevant does not count.
    """
    order = scores.argsort(dim=1, descending=True)
    hits = relevant.gather(1, order).double()
    ranks = torch.arange(1, hits.shape[1] + 1, device=hits.device, dtype=torch.float64)
    precision = hits.cumsum(dim=1) / ranks
    found = (precision * hits).sum(dim=1)[hits.any(dim=1)] / hits.sum(dim=1)[hits.any(dim=1)]
    return float(found.mean()) if len(found) else 0.0


def share_at_top(scores: Tensor, members: Tensor, top: int = TOP) -> Tensor:
    """Return the (N,) share of a class among each query's `top` most similar pictures.

    Parameters
    ----------
    scores : Tensor
        (N, M) similarities.
    members : Tensor
        (M,) bool, which pictures are of the class.
    top : int
        How many are shown; all of them where there are fewer.
    """
    first = scores.topk(min(top, scores.shape[1]), dim=1).indices
    return members[first].double().mean(dim=1)
