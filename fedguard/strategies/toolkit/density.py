"""Density-based clusters of clients, for few clients and with ties."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.cluster import HDBSCAN
from torch import Tensor

_FURTHEST = 2.0
"""Largest distance that the others are rounded in comparison with."""


def density_clusters(
    distances: Tensor, min_cluster_size: int, *, allow_single_cluster: bool = True
) -> Tensor:
    """Return HDBSCAN's (K,) labels, -1 for noise; copies of one client share a label.

    Parameters
    ----------
    distances : Tensor
        (K, K) symmetric distances.
    min_cluster_size : int
        Fewest clients of a cluster, at least 2.
    allow_single_cluster : bool
        Whether all clients may form one cluster.
    """
    count = len(distances)
    labels = torch.zeros(count, dtype=torch.int64)
    wide = distances.to("cpu", torch.float64)
    # Rounding must not tell copies apart, nor break a tie one way or the other. A cosine is at
    # most 2 away; one client that lies further out must not make all others look like copies.
    wide = torch.round(wide / wide.max().clamp(min=1e-300, max=_FURTHEST), decimals=9)
    if count < 3 or float(distances.max()) <= 0.0:
        return labels
    clusterer = HDBSCAN(
        min_cluster_size=min(max(min_cluster_size, 2), count),
        min_samples=2,  # counts the client itself: its nearest neighbour decides
        metric="precomputed",
        allow_single_cluster=allow_single_cluster,
        copy=True,
    )
    return torch.from_numpy(clusterer.fit_predict(wide.numpy()).astype(np.int64))


def largest_cluster(labels: Tensor) -> Tensor:
    """Return the (K,) mask of the largest cluster; of all clusters that tie; of all if none."""
    found = labels[labels >= 0]
    if len(found) == 0:
        return torch.ones(len(labels), dtype=torch.bool)
    sizes = torch.bincount(found)
    biggest = (sizes == sizes.max()).nonzero().flatten()
    return torch.isin(labels, biggest)
