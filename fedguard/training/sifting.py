"""Which rows of a suspicious data set are surely clean, by the company they keep in features."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from sklearn.cluster import DBSCAN
from torch import Tensor
from torch.nn import functional

NEAR = 10
"""Neighbours that a row is judged by."""

FEWEST = 12
"""Rows of a class below which nothing can be said of them."""

Rule = Literal["within-class", "cross-class"]


def spread_out(features: Tensor) -> Tensor:
    """Return (N, F) float32 features, pooled over space, centred, each row of length 1.

    Parameters
    ----------
    features : Tensor
        (N, F) or (N, C, H, W).
    """
    flat = features.flatten(2).mean(dim=2) if features.dim() > 2 else features
    flat = torch.nan_to_num(flat.float())
    return functional.normalize(flat - flat.mean(dim=0), dim=1)


def nearest(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the (N, N) distances of rows, and (N, count) the nearest others of each."""
    distances = torch.cdist(features, features)
    distances.fill_diagonal_(torch.inf)
    found = distances.argsort(dim=1, stable=True)[:, :count]
    return distances.fill_diagonal_(0.0), found


def in_largest_cluster(distances: Tensor, reach: float) -> Tensor:
    """Return which rows lie in the largest DBSCAN cluster; all of them where there is none."""
    if reach <= 0.0:
        return torch.ones(len(distances), dtype=torch.bool)
    told = DBSCAN(eps=reach, min_samples=4, metric="precomputed").fit_predict(distances.numpy())
    if not bool((told >= 0).any()):
        return torch.ones(len(distances), dtype=torch.bool)
    return torch.from_numpy(told == int(np.bincount(told[told >= 0]).argmax()))


def consistency(neighbours: Sequence[Tensor]) -> Tensor:
    """Return how far each row has the same neighbours at all stages, (N,) from 0 to 1.

    ``c_i = mean over stages l < m of |N_l(i) & N_m(i)| / k``; 1 where there is one stage.
    """
    count, near = neighbours[0].shape
    sets = []
    for found in neighbours:
        member = torch.zeros(count, count, dtype=torch.bool)
        sets.append(member.scatter_(1, found, torch.ones_like(found, dtype=torch.bool)))
    pairs = [
        (one & other).sum(dim=1).double() / near for one, other in itertools.combinations(sets, 2)
    ]
    return torch.stack(pairs).mean(dim=0) if pairs else torch.ones(count, dtype=torch.float64)


def seed_rows(
    stages: Sequence[Tensor], y: Tensor, share: float, rule: Rule = "within-class"
) -> tuple[Tensor, int]:
    """Return which rows are taken for surely clean, and how many classes could not be judged.

    ``within-class``, in each class of at least `FEWEST` rows: among the rows that lie in the
    largest cluster at every stage (DBSCAN, as far as the median distance to the tenth neighbour),
    the most consistent; among all rows of the class where no row does. ``cross-class``: the rows
    whose ten nearest neighbours among *all* classes carry their own label most often, at the stage
    where that is least.

    Parameters
    ----------
    stages : sequence of Tensor
        Features of the same N rows at one or more stages, each (N, F) or (N, C, H, W).
    y : Tensor
        (N,) labels, some of which may be wrong.
    share : float
        Share of a class that is taken, above 0 to 1; at least 5 rows of it.
    rule : {"within-class", "cross-class"}
        How rows are judged.

    Returns
    -------
    tuple of Tensor and int
        (N,) bool, and the number of classes with rows of which none was taken.
    """
    y = y.cpu()
    chosen = torch.zeros(len(y), dtype=torch.bool)
    skipped = 0
    agreed = _agreement(stages, y) if rule == "cross-class" and len(y) > NEAR else None
    for label in sorted(set(y.tolist())):
        rows = (y == label).nonzero().flatten()
        if len(rows) < FEWEST:
            skipped += 1
            continue
        wanted = max(5, math.ceil(share * len(rows)))
        if agreed is None:
            worth, inside = _company([stage[rows] for stage in stages])
            if bool(inside.any()):
                worth = worth + inside.double()
                wanted = min(wanted, int(inside.sum()))
        else:
            worth = agreed[rows]
        chosen[rows[worth.argsort(descending=True, stable=True)[:wanted]]] = True
    return chosen, skipped


def _company(stages: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the consistency of a class's rows, and which are in the majority at every stage."""
    neighbours = []
    inside = torch.ones(len(stages[0]), dtype=torch.bool)
    for stage in stages:
        distances, found = nearest(spread_out(stage.cpu()), min(NEAR, len(stage) - 1))
        last = distances.gather(1, found[:, -1:]).flatten()
        inside &= in_largest_cluster(distances, float(last.median()))
        neighbours.append(found)
    return consistency(neighbours), inside


def _agreement(stages: Sequence[Tensor], y: Tensor) -> Tensor:
    """Return each row's least share, over stages, of near rows with its own label."""
    shares = []
    for stage in stages:
        _, found = nearest(spread_out(stage.cpu()), NEAR)
        shares.append((y[found] == y[:, None]).double().mean(dim=1))
    return torch.stack(shares).amin(dim=0)
