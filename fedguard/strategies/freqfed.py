"""FreqFed: clusters of client models in the frequency domain."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import torch
from scipy.fft import dct
from torch import Tensor

from fedguard.errors import check_number
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.toolkit.averaging import (
    average,
    clip_factors,
    equal_weights,
    median,
    rejections,
)
from fedguard.strategies.toolkit.density import density_clusters, largest_cluster
from fedguard.strategies.toolkit.distances import cosine_distances, gram_matrix, shared_norms
from fedguard.updates import ClientUpdates, Verdict

_WHOLE_UP_TO = 1 << 22
"""Entries up to which all models' spectra are held at once."""


def low_frequencies(updates: ClientUpdates, first: int, last: int) -> Tensor:
    """Return (K, last - first) float32 DCT-II coefficients `first` to `last` of the client models.

    The trainable parameters are transformed as one vector, in layout order.
    """
    start = updates.global_vector[: updates.layout.num_trainable]
    found = updates.deltas.new_empty(len(updates), last - first)
    for at, row in enumerate(updates.trainable):
        spectrum = dct((start + row).cpu().numpy(), type=2, norm="ortho")
        found[at] = torch.from_numpy(spectrum[first:last])
    return found


def spectrum_gram(updates: ClientUpdates, share: float) -> Tensor:
    """Return the (K, K) float64 Gram matrix of the lowest `share` of the models' frequencies.

    Large spectra are taken in two halves, each of its own transforms: half of them at a time is
    all that the memory of a round has room for.
    """
    keep = max(1, round(share * updates.layout.num_trainable))
    halves = 2 if len(updates) * keep > _WHOLE_UP_TO else 1
    edges = [keep * at // halves for at in range(halves + 1)]
    parts = [gram_matrix(low_frequencies(updates, *edge)) for edge in pairwise(edges)]
    return torch.stack(parts).sum(dim=0)


class FreqFed(RobustStrategy):
    r"""Keep the largest cluster of client models by their low-frequency spectrum.

    1. DCT-II of each client model; its lowest frequencies;
    2. HDBSCAN on their cosine distances, clusters of at least ``floor(n / 2) + 1`` clients;
    3. mean of the largest cluster.

    A reading of Fereidooni et al., "FreqFed: A Frequency Analysis-Based Approach for Mitigating
    Poisoning Attacks in Federated Learning", NDSS 2024. Ours: the transform runs over all
    parameters as one vector, and updates are clipped to the median norm, because a cosine does
    not see sizes. Where there is no majority cluster all clients are kept, clipped.

    Parameters
    ----------
    frequency_share : float
        Share of the spectrum that counts as low, in (0, 1].
    clip : bool
        Whether updates are clipped to the median norm of the round.

    Notes
    -----
    .. math::
       F_{km} = \sqrt{\frac{2 - [m = 0]}{D}} \sum_{d=0}^{D-1} (w + \delta_k)_d
       \cos\left( \frac{\pi m (2 d + 1)}{2 D} \right), \quad m < q D

    .. math::
       \delta = \frac{1}{|L|} \sum_{k \in L} \delta_k \min\left( 1, \frac{\operatorname{med}_j
       \lVert \delta_j \rVert}{\lVert \delta_k \rVert} \right)

    where :math:`\delta_k` is client k's update (without the minimum where `clip` is off), w the
    global model, D the parameters, q the `frequency_share`, and L the largest cluster by
    :math:`1 - \cos(F_i, F_j)`.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies import FreqFed
    >>> from fedguard.updates import ClientUpdates
    >>> rows = [[3.0, 4.0], [3.0, 4.0], [6.0, 8.0], [-4.0, 3.0]]
    >>> updates = ClientUpdates.from_matrix(torch.tensor(rows))
    >>> verdict = FreqFed(frequency_share=1.0).decide(updates)
    >>> [round(value, 3) for value in verdict.delta.tolist()]
    [3.0, 4.0]
    >>> sorted(verdict.reasons)
    [3]
    """

    properties: ClassVar[frozenset[str]] = frozenset({"robust"})

    def __init__(self, *, frequency_share: float = 0.5, clip: bool = True, **base: Any) -> None:
        super().__init__(**base)
        check_number("frequency_share", frequency_share, above=0.0, at_most=1.0)
        self.frequency_share = frequency_share
        self.clip = clip

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the clipped mean of the largest cluster; see `RobustStrategy.combine`."""
        distances = cosine_distances(spectrum_gram(updates, self.frequency_share))
        keep = largest_cluster(density_clusters(distances, len(updates) // 2 + 1))
        weights = equal_weights(keep)
        norms = shared_norms(updates)
        factors = clip_factors(norms, median(norms)) if self.clip else None
        closeness = torch.stack([median(row) for row in distances])
        reasons = rejections(
            updates, weights, lambda row: "low frequencies outside the largest cluster"
        )
        delta = average(updates, weights, factors)
        return Verdict(delta, weights, {"median_cosine_distance": closeness}, reasons)
