"""Adaptive clustering on precomputed distances."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

Labels = NDArray[np.int64]
Distances = NDArray[np.float64]


def off_diagonal_median(distances: Distances) -> float:
    """Return the median distance between different clients; 0 for fewer than two."""
    count = len(distances)
    if count < 2:
        return 0.0
    return float(np.median(distances[~np.eye(count, dtype=bool)]))


def silhouette(distances: Distances, labels: Labels) -> float:
    """Return the mean silhouette of clusters: how much nearer each client is to its own.

    ``s = (b - a) / max(a, b)``: ``a`` is a client's mean distance to the others of its cluster,
    ``b`` the least of its mean distances to another cluster; 0 for a client that is alone
    (Rousseeuw 1987). As scikit-learn's ``silhouette_score`` to the last bit, without its import of
    two seconds.

    Parameters
    ----------
    distances : ndarray
        (K, K) symmetric, zero diagonal.
    labels : ndarray
        (K,) cluster of each client; at least two clusters.
    """
    _, labels = np.unique(labels, return_inverse=True)
    sizes = np.bincount(labels)
    sums: Distances = np.stack([np.bincount(labels, row, len(sizes)) for row in distances])
    rows = np.arange(len(labels))
    own = sums[rows, labels]
    sums[rows, labels] = np.inf
    nearest = (sums / sizes).min(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        own = own / (sizes - 1)[labels]
        values = (nearest - own) / np.maximum(own, nearest)
    return float(np.mean(np.nan_to_num(values)))


def adaptive_clusters(distances: Distances, max_clusters: int, min_silhouette: float) -> Labels:
    """Return cluster labels from 0, with as many clusters as the silhouette supports.

    Average linkage for k = 2 .. `max_clusters`; the k of the highest silhouette, or one cluster
    where none reaches `min_silhouette` (a silhouette alone can never say "no structure").
    Deterministic: no seeds, no restarts.

    Parameters
    ----------
    distances : ndarray
        (K, K) symmetric, zero diagonal.
    max_clusters : int
        Largest k tried.
    min_silhouette : float
        Silhouette below which everything is one cluster, -1 to 1.
    """
    count = len(distances)
    single = np.zeros(count, dtype=np.int64)
    if count < 4 or float(distances.max()) <= 0.0:
        return single
    tree = linkage(squareform(distances, checks=False), "average")
    best, best_labels = min_silhouette, single
    for k in range(2, min(max_clusters, count - 1) + 1):
        labels = fcluster(tree, k, "maxclust").astype(np.int64) - 1
        if len(np.unique(labels)) < 2:
            continue
        quality = silhouette(distances, labels)
        if quality > best:
            best, best_labels = quality, labels
    return best_labels
