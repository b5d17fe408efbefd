"""`TwoViews`: what defences share that look at a round in weight space and in latent space."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fedguard.errors import check_choice, check_number
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.toolkit.averaging import average, clip_factors, median
from fedguard.strategies.toolkit.clustering import Labels, adaptive_clusters
from fedguard.strategies.toolkit.distances import (
    cosine_distances,
    shared_distances,
    shared_gram,
    shared_norms,
)
from fedguard.strategies.toolkit.judged_round import JudgedRound
from fedguard.strategies.toolkit.latent import client_activations, squared_mmd
from fedguard.strategies.toolkit.patch_memory import PatchMemory
from fedguard.strategies.toolkit.weight_view import (
    copy_votes,
    majority_clusters,
    reject_copies,
    reject_far_third,
    reject_long,
    reject_opposed,
    scaled,
)
from fedguard.updates import ClientUpdates, Verdict


class TwoViews(RobustStrategy):
    """A base: measures both views, rejects what no honest training produces, averages the rest.

    Weight view: with ``C_ij`` the cosine and ``E_ij`` the Euclidean distance of two clients,
    ``D = (C / median C + E / median E) / 2``; near-identical updates collapse into one vote, and
    blocks of three or more are rejected; average-linkage clusters of the votes' D are recorded, and
    decide where there is no model (`tools` is None): clusters are then kept in order of their
    distance to the coordinate-wise median until more than half of the votes are in. Updates longer
    than `max_norm_ratio` times the median norm are rejected, unless lengths differ by more and they
    go the way of the others, see `reject_long`, and, if `opposition` says so, those that pull
    against the others by more than honest updates disagree; see `reject_opposed`.

    Latent view: activations of each remaining client's model on the server's examples, squared MMD
    ``M_ij`` between clients, ``m_i = median_j M_ij``, trust ``T_i = exp(-m_i / (tau median m))``;
    clients whose activations are not finite are rejected.

    Parameters
    ----------
    vector : {"delta", "weights"}
        What the cosine is taken of: updates, or whole client models; Euclidean distances are the
        same.
    max_clusters : int
        Largest number of clusters tried, at least 2.
    min_silhouette : float
        Silhouette below which all clients are one cluster, -1 to 1.
    tau : float
        Temperature of the trust, above 0; small is strict.
    max_norm_ratio : float
        Multiple of the median norm beyond which an update is rejected, or, where lengths differ
        much, must go along with the others; above 1.
    clip_ratio : float
        Multiple of the median norm that updates are clipped to, above 0.
    opposition : float
        Robust standard deviations by which a client must pull more against the others than they do
        to be rejected for it, at least 0; 0 rejects nobody for it.
    aux_samples : int
        Auxiliary examples for the latent view, at least 2, as far as the server holds them.
    """

    def __init__(
        self,
        *,
        vector: Literal["delta", "weights"] = "delta",
        max_clusters: int = 6,
        min_silhouette: float = 0.15,
        tau: float = 1.0,
        max_norm_ratio: float = 2.5,
        clip_ratio: float = 1.5,
        opposition: float = 0.0,
        aux_samples: int = 50,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        check_choice("vector", vector, ("delta", "weights"))
        check_number("max_clusters", max_clusters, at_least=2)
        check_number("min_silhouette", min_silhouette, at_least=-1, at_most=1)
        check_number("tau", tau, above=0)
        check_number("max_norm_ratio", max_norm_ratio, above=1)
        check_number("clip_ratio", clip_ratio, above=0)
        check_number("opposition", opposition, at_least=0)
        check_number("aux_samples", aux_samples, at_least=2)
        self.vector = vector
        self.max_clusters = max_clusters
        self.min_silhouette = min_silhouette
        self.tau = tau
        self.max_norm_ratio = max_norm_ratio
        self.clip_ratio = clip_ratio
        self.opposition = opposition
        self.aux_samples = aux_samples
        self._accepted_norm = torch.zeros(0, dtype=torch.float64)
        self._patches = PatchMemory()

    def reset(self) -> None:
        """Forget the accepted norms and the evidence of earlier rounds."""
        self._accepted_norm = torch.zeros(0, dtype=torch.float64)
        self._patches = PatchMemory()

    def state(self) -> dict[str, Tensor]:
        """Return the accepted norms of the newest rounds, and who seemed to teach a patch."""
        return {"accepted_norm": self._accepted_norm, **self._patches.state()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` returned."""
        self._accepted_norm = state["accepted_norm"]
        self._patches.load_state(state)

    def _seen(self, updates: ClientUpdates) -> tuple[JudgedRound, Tensor]:
        """Take both views of a round; return what is known and the (K,) trust, 0 for rejected."""
        count = len(updates)
        gram = shared_gram(updates)
        norms = shared_norms(updates)
        euclidean = shared_distances(updates).sqrt()
        everybody = np.ones(count, dtype=bool)
        state = JudgedRound(updates, norms, everybody, {}, {"norm": norms}, torch.ones_like(norms))
        state.reach *= self.clip_ratio
        if count >= 4:
            self._weight_view(state, self._cosine(updates, gram), euclidean)
        elif count == 3:
            reject_far_third(state, euclidean)
        return state, self._latent_view(state)

    def _cosine(self, updates: ClientUpdates, gram: Tensor) -> Tensor:
        if self.vector == "delta":
            return cosine_distances(gram)
        # <g + d_i, g + d_j> from the Gram matrix of the deltas, all in float64.
        start = updates.global_vector[: updates.layout.num_trainable].to(torch.float64)
        along = torch.stack([row.to(torch.float64) @ start for row in updates.trainable])
        return cosine_distances(gram + along[:, None] + along[None, :] + start @ start)

    def _weight_view(self, state: JudgedRound, cosine: Tensor, euclidean: Tensor) -> None:
        distance = np.asarray(euclidean)
        combined = scaled(np.asarray(cosine)) + scaled(distance)
        labels = self._by_weights(state, combined, distance)
        state.scores["cluster"] = torch.as_tensor(labels, dtype=torch.float64)
        state.scores["distance"] = torch.as_tensor(np.median(combined, axis=1))

    def _by_weights(self, state: JudgedRound, combined: np.ndarray, distance: np.ndarray) -> Labels:
        """Reject by the (K, K) distances; return each client's cluster (K,)."""
        votes = copy_votes(distance, np.asarray(state.norms))
        labels = self._clusters_of_votes(combined, votes)
        if self.tools is None:
            chosen = majority_clusters(labels, votes, state.updates)
        else:
            chosen = set(labels.tolist())
        reject_copies(state, votes)
        gram = shared_gram(state.updates)
        limits = reject_long(state, gram, self.max_norm_ratio)
        if self.opposition > 0.0:
            reject_opposed(state, gram, self.opposition, limits)
        reject_clusters(state, labels, chosen)
        return labels

    def _clusters_of_votes(self, combined: np.ndarray, votes: Labels) -> Labels:
        """Return each client's cluster, near-identical updates counted once."""
        first = np.array([np.flatnonzero(votes == vote)[0] for vote in range(votes.max() + 1)])
        labels = adaptive_clusters(
            combined[np.ix_(first, first)], self.max_clusters, self.min_silhouette
        )
        return labels[votes]

    def _latent_view(self, state: JudgedRound) -> Tensor:
        """Return the (K,) trust, 0 for rejected clients; rejects outliers of the latent view."""
        updates = state.updates
        rows = np.flatnonzero(state.keep)
        trust = torch.zeros(len(updates), dtype=torch.float64)
        trust[rows] = 1.0
        if self.tools is None or len(rows) < 2:
            return trust
        activations = self._activations(state, rows)
        finite = torch.isfinite(activations).flatten(1).all(dim=1)
        for row in rows[~finite.numpy()]:
            state.reject(int(row), "latent activations are not finite")
            trust[row] = 0.0
        rows, activations = rows[finite.numpy()], activations[finite]
        if len(rows) < 3:
            return trust
        discrepancy = squared_mmd(activations)
        others = discrepancy[~torch.eye(len(rows), dtype=torch.bool)].view(len(rows), -1)
        typical = others.median(dim=1).values
        centre = float(typical.median())
        if centre > 0.0:
            trust[rows] = torch.exp(-typical / (self.tau * centre))
        state.scores["mmd"] = torch.full((len(trust),), float("nan"), dtype=torch.float64)
        state.scores["mmd"][rows] = typical
        state.scores["trust"] = trust
        self._by_trust(state, rows, trust)
        return torch.where(torch.as_tensor(state.keep), trust, 0.0)

    def _by_trust(self, state: JudgedRound, rows: np.ndarray, trust: Tensor) -> None:
        """Reject by the (K,) trust of the clients in `rows`; nobody by default."""

    def _activations(self, state: JudgedRound, rows: np.ndarray) -> Tensor:
        assert self.tools is not None
        updates = state.updates
        models = (updates.global_vector + updates.deltas[int(row)] for row in rows)
        step = max(1, len(self.tools.x) // self.aux_samples)
        x = self.tools.x[::step][: self.aux_samples]
        return client_activations(self.tools, updates.layout, models, x)

    def _aggregate(self, state: JudgedRound, shares: Tensor) -> Verdict:
        """Average the kept updates, clipped, by their shares (K,)."""
        updates = state.updates
        shares = torch.where(torch.as_tensor(state.keep), shares, 0.0)
        if float(shares.sum()) <= 0.0:
            nothing = torch.zeros(updates.layout.size)
            return Verdict(nothing, torch.zeros(len(updates)), state.scores, state.reasons)
        weights = shares / shares.sum()
        limit = self._norm_limit(state)
        factors = clip_factors(state.norms, limit * state.reach) if limit > 0.0 else None
        delta = average(updates, weights, factors)
        return Verdict(delta, weights, state.scores, state.reasons)

    def _norm_limit(self, state: JudgedRound) -> float:
        """Return the norm that `clip_ratio` is a multiple of; 0 for no clipping."""
        accepted = state.norms[torch.as_tensor(state.keep)]
        current = float(accepted.min() if len(accepted) == 2 else median(accepted))
        earlier = self._accepted_norm
        if len(accepted) == 1 and len(earlier):
            current = min(current, float(earlier.median()))
        if len(accepted) < 3:  # nobody can be told apart: no update gets more than the shortest
            current /= max(self.clip_ratio, 1.0)
        self._accepted_norm = torch.cat([earlier, median(accepted)[None]])[-9:]
        return current


def reject_clusters(state: JudgedRound, labels: Labels, chosen: set[int]) -> None:
    """Reject whoever is in none of the chosen clusters."""
    for row, label in enumerate(labels):
        if int(label) not in chosen:
            state.reject(row, "far from the majority in weight space")
