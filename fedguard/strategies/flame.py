"""FLAME."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from fedguard.errors import check_number
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.norm_clipping import add_noise
from fedguard.strategies.toolkit.averaging import (
    average,
    clip_factors,
    equal_weights,
    median,
    rejections,
)
from fedguard.strategies.toolkit.density import density_clusters, largest_cluster
from fedguard.strategies.toolkit.distances import cosine_distances, gram_matrix, shared_norms
from fedguard.strategies.toolkit.mixture import trainable_rows
from fedguard.updates import ClientUpdates, Verdict


def model_gram(updates: ClientUpdates) -> Tensor:
    """Return the (K, K) float64 Gram matrix of client models, global model plus delta."""
    start = updates.global_vector[: updates.layout.num_trainable]
    return gram_matrix(trainable_rows(updates), -start)


class FLAME(RobustStrategy):
    r"""Keep the majority cluster of client models, clip to the median norm, add noise.

    1. HDBSCAN on the cosine distances of models, clusters of at least ``floor(n / 2) + 1`` clients;
    2. clip the kept ones to the median norm of all clients and average them;
    3. add noise in proportion to that norm.

    Nguyen et al., "FLAME: Taming Backdoors in Federated Learning", USENIX Security 2022. Where
    HDBSCAN finds no majority cluster all clients are kept, clipped.

    Parameters
    ----------
    noise_multiplier : float
        lambda >= 0; the paper derives it from (epsilon, delta) and uses 0.001 for images.

    Notes
    -----
    .. math::
       \delta = \frac{1}{|L|} \sum_{k \in L} \delta_k
       \min\left( 1, \frac{S}{\lVert \delta_k \rVert} \right)
       + \mathcal{N}(0, (\lambda S)^2 I), \qquad
       S = \operatorname{med}_k \lVert \delta_k \rVert

    where :math:`\delta_k` is client k's update, S taken over all clients, L the majority cluster by
    :math:`1 - \cos(w + \delta_i, w + \delta_j)`, and w the global model.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies import FLAME
    >>> from fedguard.updates import ClientUpdates
    >>> rows = [[3.0, 4.0], [3.0, 4.0], [6.0, 8.0], [-4.0, 3.0]]
    >>> updates = ClientUpdates.from_matrix(torch.tensor(rows))
    >>> verdict = FLAME(noise_multiplier=0.0).decide(updates)
    >>> [round(value, 3) for value in verdict.delta.tolist()]
    [3.0, 4.0]
    >>> sorted(verdict.reasons)
    [3]
    """

    properties: ClassVar[frozenset[str]] = frozenset({"robust", "noise"})
    traits = RobustStrategy.traits.but(blocks="columns")

    def __init__(self, *, noise_multiplier: float = 0.001, **base: Any) -> None:
        super().__init__(**base)
        check_number("noise_multiplier", noise_multiplier, at_least=0.0)
        self.noise_multiplier = noise_multiplier

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the clipped, noised mean of the majority; see `RobustStrategy.combine`."""
        count = len(updates)
        distances = cosine_distances(model_gram(updates))
        keep = largest_cluster(density_clusters(distances, count // 2 + 1))
        norms = shared_norms(updates)
        bound = median(norms)
        weights = equal_weights(keep)
        delta = average(updates, weights, clip_factors(norms, bound))
        add_noise(delta, self.noise_multiplier * float(bound), updates, self.seed)
        closeness = torch.stack([median(row) for row in distances])
        reasons = rejections(updates, weights, lambda row: "outside the majority cluster of models")
        return Verdict(
            delta, weights, {"median_cosine_distance": closeness, "norm": norms}, reasons
        )
