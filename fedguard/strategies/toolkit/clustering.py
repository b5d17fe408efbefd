"""Adaptive clustering on precomputed distances."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from sklearn.metrics import silhouette_score

Labels = NDArray[np.int64]
Distances = NDArray[np.float64]


def off_diagonal_median(distances: Distances) -> float:
    """Return the median distance between different clients; 0 for fewer than two."""
    count = len(distances)
    if count < 2:
        return 0.0
    return float(np.median(distances[~np.eye(count, dtype=bool)]))


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
        quality = float(silhouette_score(distances, labels, metric="precomputed"))
        if quality > best:
            best, best_labels = quality, labels
    return best_labels
