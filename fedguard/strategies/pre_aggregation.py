"""Pre-aggregation: what is done to the updates before a rule sees them.

Each part maps `ClientUpdates` to `ClientUpdates` and composes with any rule. All are linear maps
of the rows with coefficients that depend on the round: ``y_i = sum_j M_ij x_j`` on the trainable
parameters, with M from `matrix`. So the weights that the rule gives to the rows y lead back to
the clients, and `combine_after` returns a verdict about clients.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from fedguard.errors import check_assumed_malicious, check_number, unknown_name
from fedguard.randomness import SERVER, numpy_generator
from fedguard.strategies.toolkit.averaging import clip_factors, lowest
from fedguard.strategies.toolkit.bounds import assumed_count
from fedguard.strategies.toolkit.coordinates import coordinate_median
from fedguard.strategies.toolkit.distances import shared_distances, shared_norms
from fedguard.strategies.toolkit.mixture import MixedUpdates, Mixture
from fedguard.updates import ClientUpdates, Verdict


class PreAggregation(ABC):
    """A map from the round's updates to the ones that the rule sees."""

    @abstractmethod
    def matrix(self, updates: ClientUpdates) -> Tensor:
        """Return the (L, K) float64 coefficients M, at least 0, no row all 0."""

    def shares(self, updates: ClientUpdates, matrix: Tensor) -> Tensor:
        """Return the (L, K) shares of the clients in each row; every row adds up to 1."""
        return matrix / matrix.sum(dim=1, keepdim=True)

    def __call__(self, updates: ClientUpdates) -> ClientUpdates:
        """Return the mixed or clipped updates; see `apply`."""
        return self.apply(updates, self.matrix(updates))

    def apply(self, updates: ClientUpdates, matrix: Tensor) -> ClientUpdates:
        """Return the rows ``M x``, computed where a rule reads them; buffers are never scaled.

        A row's buffers are the coordinate-wise median of the clients it mixes, because the
        neighbourhood of an update says nothing about its buffers. Where there are fewer rows than
        clients, rows get the ids 0 to L - 1.
        """
        shares = self.shares(updates, matrix)
        buffers = updates.deltas[:, updates.layout.num_trainable :]
        tail = buffers.new_empty(len(matrix), buffers.shape[1])
        if buffers.shape[1] > 0:
            for row, members in enumerate(shares > 0):
                tail[row] = coordinate_median(buffers, members.nonzero().flatten())
        same = len(matrix) == len(updates)
        return MixedUpdates(
            num_examples=shares @ updates.num_examples,
            node_ids=updates.node_ids if same else tuple(range(len(matrix))),
            global_vector=updates.global_vector,
            layout=updates.layout,
            malformed=updates.malformed,
            remarks=updates.remarks,
            server_round=updates.server_round,
            mixture=Mixture(matrix.to(torch.float32), updates.trainable, tail),
        )


class NearestNeighbourMixing(PreAggregation):
    """Replace each update by the mean of its n - f nearest, itself included.

    Allouah et al., "Fixing by Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity",
    AISTATS 2023. Updates as near as the last of them are averaged in.

    Parameters
    ----------
    assumed_malicious : float
        Assumed fraction of malicious clients, 0 <= a < 0.5; f is its share of n, rounded up.
    """

    def __init__(self, *, assumed_malicious: float = 0.25) -> None:
        check_assumed_malicious(assumed_malicious)
        self.assumed_malicious = assumed_malicious

    def matrix(self, updates: ClientUpdates) -> Tensor:
        """Return the uniform weights of each update's neighbours; see `PreAggregation.matrix`."""
        count = len(updates)
        squared = shared_distances(updates)
        wanted = count - assumed_count(self.assumed_malicious, count)
        near = torch.stack([lowest(row, wanted) for row in squared]).to(torch.float64)
        return near / near.sum(dim=1, keepdim=True)


class Bucketing(PreAggregation):
    """Shuffle the clients and average them in buckets of s.

    Karimireddy, He and Jaggi, "Byzantine-Robust Learning on Heterogeneous Datasets via
    Bucketing", ICLR 2022. The shuffle is drawn over client ids, so the order of rows changes
    nothing; the last bucket can be smaller.

    Parameters
    ----------
    bucket_size : int
        s >= 1.
    seed : int
        Seed of the shuffle.
    """

    def __init__(self, *, bucket_size: int = 2, seed: int = 0) -> None:
        check_number("bucket_size", bucket_size, at_least=1)
        self.bucket_size = bucket_size
        self.seed = seed

    def matrix(self, updates: ClientUpdates) -> Tensor:
        """Return the membership of the buckets; see `PreAggregation.matrix`."""
        count = len(updates)
        stream = numpy_generator(self.seed, updates.server_round, SERVER, "bucketing")
        by_id = sorted(range(count), key=updates.node_ids.__getitem__)
        order = [by_id[at] for at in stream.permutation(count)]
        matrix = torch.zeros(
            math.ceil(count / self.bucket_size),
            count,
            dtype=torch.float64,
            device=updates.deltas.device,
        )
        for position, row in enumerate(order):
            matrix[position // self.bucket_size, row] = 1.0
        return matrix / matrix.sum(dim=1, keepdim=True)


class Clipping(PreAggregation):
    """Scale updates down to a fixed norm: ``x min(1, c / |x|)``.

    Parameters
    ----------
    max_norm : float
        c > 0, in units of an update's norm.
    """

    def __init__(self, *, max_norm: float = 2.0) -> None:
        check_number("max_norm", max_norm, above=0.0)
        self.max_norm = max_norm

    def matrix(self, updates: ClientUpdates) -> Tensor:
        """Return the factors on the diagonal; see `PreAggregation.matrix`."""
        return torch.diag(clip_factors(shared_norms(updates), self.max_norm))

    def shares(self, updates: ClientUpdates, matrix: Tensor) -> Tensor:
        """Return the identity: every row is one client's."""
        return torch.eye(len(matrix), dtype=torch.float64, device=matrix.device)


class AdaptiveClipping(Clipping):
    """Adaptive robust clipping (ARC): clip the largest norms to the next one below them.

    ``k = floor(2 (f / n) (n - f))`` updates of largest norm are clipped to the (k + 1)-th largest.

    Allouah, Guerraoui, Gupta, Jellouli, Rizk and Stephan, "Adaptive Gradient Clipping for Robust
    Federated Learning", ICLR 2025.

    Parameters
    ----------
    assumed_malicious : float
        Assumed fraction of malicious clients, 0 <= a < 0.5; f is its share of n, rounded up, and
        at most ``(n - 1) // 2``.
    """

    def __init__(self, *, assumed_malicious: float = 0.25) -> None:
        check_assumed_malicious(assumed_malicious)
        self.assumed_malicious = assumed_malicious

    def matrix(self, updates: ClientUpdates) -> Tensor:
        """Return the factors on the diagonal; see `PreAggregation.matrix`."""
        count = len(updates)
        bound = min(assumed_count(self.assumed_malicious, count), (count - 1) // 2)
        clipped = 2 * bound * (count - bound) // count
        norms = shared_norms(updates)
        return torch.diag(clip_factors(norms, norms.sort().values[count - clipped - 1]))


PRE_AGGREGATIONS: dict[str, Callable[..., PreAggregation]] = {
    "arc": AdaptiveClipping,
    "bucketing": Bucketing,
    "clipping": Clipping,
    "nnm": NearestNeighbourMixing,
}
"""Names of the pre-aggregations."""


def make_pre_aggregation(
    name: str, *, assumed_malicious: float = 0.25, seed: int = 0
) -> PreAggregation:
    """Return a pre-aggregation by its name in `PRE_AGGREGATIONS`, with what it takes of the rest.

    Raises
    ------
    ConfigurationError
        If there is none of that name.
    """
    if name not in PRE_AGGREGATIONS:
        raise unknown_name("pre", name, PRE_AGGREGATIONS)
    if name == "bucketing":
        return Bucketing(seed=seed)
    if name == "clipping":
        return Clipping()
    return PRE_AGGREGATIONS[name](assumed_malicious=assumed_malicious)


def combine_after(
    pre: PreAggregation, combine: Callable[[ClientUpdates], Verdict], updates: ClientUpdates
) -> Verdict:
    """Return the verdict of `combine` on the mixed updates, led back to the clients.

    A client's weight is its share in the rows that were accepted; its score the mean over the
    rows it is part of; it is rejected if all of those are.
    """
    matrix = pre.matrix(updates)
    shares = pre.shares(updates, matrix)
    seen = pre.apply(updates, matrix)
    verdict = combine(seen)
    weights = shares.T @ verdict.weights.to(shares)
    presence = shares / shares.sum(dim=0).clamp(min=1e-300)
    scores = {name: presence.T @ score.to(shares) for name, score in verdict.scores.items()}
    reasons = {
        node: _reason(verdict, seen, shares[:, row])
        for row, node in enumerate(updates.node_ids)
        if float(weights[row]) == 0.0
    }
    return Verdict(verdict.delta, weights, scores, reasons)


def _reason(verdict: Verdict, seen: ClientUpdates, share: Tensor) -> str:
    """Return why the row that a rejected client has most part in was rejected."""
    row = int(share.argmax())
    if float(share[row]) == 0.0:
        return "near to no other update"
    return verdict.reasons.get(seen.node_ids[row], "mixed into rejected updates only")
