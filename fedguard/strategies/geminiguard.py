"""GeminiGuard: model-weight analysis, then latent-space analysis."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fedguard.errors import check_choice, check_number
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.toolkit.averaging import average, clip_factors, median
from fedguard.strategies.toolkit.claims import CLAIM_CAP, claimed_reach, claimed_shares
from fedguard.strategies.toolkit.clustering import Labels, adaptive_clusters
from fedguard.strategies.toolkit.distances import (
    cosine_distances,
    shared_distances,
    shared_gram,
    shared_norms,
)
from fedguard.strategies.toolkit.judged_round import JudgedRound
from fedguard.strategies.toolkit.latent import client_activations, squared_mmd
from fedguard.strategies.toolkit.verification import Verification
from fedguard.strategies.toolkit.weight_view import (
    central_largest_cluster,
    copy_votes,
    majority_clusters,
    reject_copies,
    reject_far_third,
    scaled,
)
from fedguard.traits import Traits
from fedguard.updates import ClientUpdates, Verdict


class GeminiGuard(RobustStrategy):
    """Filter updates by two views: distances between models, then their latent representations.

    ``mode="paper"``

    1. Model-weight analysis: with ``C_ij`` the cosine and ``E_ij`` the Euclidean distance of two
       clients, ``D = (C / median C + E / median E) / 2``; average-linkage clusters of D, their
       number chosen by silhouette; the largest cluster goes on.
    2. Latent-space analysis: activations of each remaining client's model on auxiliary examples,
       squared MMD ``M_ij`` between clients, ``m_i = median_j M_ij``,
       trust ``T_i = exp(-m_i / (tau median m))``; clients below half the median trust are rejected.
    3. Aggregation: updates clipped to the median norm of the accepted, averaged by trust.

    ``mode="hardened"`` keeps both views and changes what they may decide. Where clients hold few
    labels, the majority's cluster is not the honest clients, and whoever rejects by cluster loses
    more than the attack costs. So the views reject only what honest training cannot produce:

    1. Model-weight analysis: near-identical updates collapse into one vote, and blocks of three or
       more are rejected; updates longer than `max_norm_ratio` times the median norm are rejected.
    2. Latent-space analysis: cluster and trust are computed as above and recorded; clients whose
       activations are not finite are rejected.
    3. Verification: in the average of what remains, clipped to the median norm and weighted by
       claimed examples (at most three times their median), clients are dropped one at a time as
       long as the loss on the server's labelled examples falls by more than `margin` asks; see
       `prune_harmful`. Where the loss is lower so, claims then count up to ten times their median,
       and who claims n times the median may be sqrt(n) times as long.
    4. Backdoor search: for every class the small patch is searched for that moves the server's
       examples most into it, on the average of what remains; see `search_triggers`. Where a
       class' patch works 1.5 times better than a typical class', clients that teach it (see
       `teachers`) are dropped in the same way as long as its effect falls. At least half of the
       clients are kept throughout.

    A reading of Lyu et al., "Two Heads Are Better than One: Model-Weight and Latent-Space Analysis
    for Federated Learning on Non-iid Data against Poisoning Attacks", arXiv 2025 (2503.23288). The
    public text names the two views, the pairwise cosine and Euclidean distances of client models
    and the order of the modules. The clustering algorithm, the choice of the benign cluster, the
    MMD kernel, the trust formula, the aggregation and the whole hardened mode are ours. Paper mode
    does not read the labels of the auxiliary data; hardened mode does, as FLTrust.

    Without a model and auxiliary data (`tools` is None) only the first view is taken; hardened mode
    then keeps clusters in order of their distance to the coordinate-wise median until more than
    half of the votes are in.

    Parameters
    ----------
    mode : {"hardened", "paper"}
        See above.
    vector : {"delta", "weights"}
        What the cosine is taken of: updates, or whole client models as the paper writes; Euclidean
        distances are the same. Left out, ``"weights"`` in paper mode and ``"delta"`` in hardened.
    max_clusters : int
        Largest number of clusters tried, at least 2.
    min_silhouette : float
        Silhouette below which all clients are one cluster, -1 to 1.
    tau : float
        Temperature of the trust, above 0; small is strict.
    min_trust : float
        Paper mode: share of the median trust below which a client is rejected, 0 to 1.
    max_norm_ratio : float
        Hardened mode: multiple of the median norm beyond which an update is rejected, above 1.
    margin : float
        Hardened mode: how harmful a client must be to be dropped, as the cosine between its update
        and the gradient of the server's loss, 0 to below 1; 0 drops whoever harms at all.
    trigger_margin : float
        Hardened mode: the same for the effect of a patch, 0 to below 1; 0 does not search.
    trigger_budget : float
        Hardened mode: share of the input positions that a patch may cover, above 0 to 1; inputs
        of so few positions that this is less than two are not searched.
    aux_samples : int
        Auxiliary examples for the latent view, at least 2, as far as the server holds them.

    Examples
    --------
    >>> import torch
    >>> from fedguard.strategies import GeminiGuard
    >>> from fedguard.updates import ClientUpdates
    >>> honest = [[1.0, 0.0], [0.9, 0.3], [1.1, -0.3], [1.0, 0.2], [0.8, 0.1]]
    >>> updates = ClientUpdates.from_matrix(torch.tensor([*honest, *[[-1.0, 0.0]] * 3]))
    >>> GeminiGuard().decide(updates).reasons[7]
    'one of 3 near-identical updates'
    """

    traits = RobustStrategy.traits.but(
        server_data="labelled", server_model=True, latent=True, tasks=frozenset({"classification"})
    )

    def __init__(
        self,
        *,
        mode: Literal["hardened", "paper"] = "hardened",
        vector: Literal["delta", "weights"] | None = None,
        max_clusters: int = 6,
        min_silhouette: float = 0.15,
        tau: float = 1.0,
        min_trust: float = 0.5,
        max_norm_ratio: float = 2.5,
        margin: float = 0.1,
        trigger_margin: float = 0.1,
        trigger_budget: float = 0.02,
        aux_samples: int = 50,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        check_choice("mode", mode, ("hardened", "paper"))
        if vector is not None:
            check_choice("vector", vector, ("delta", "weights"))
        check_number("max_clusters", max_clusters, at_least=2)
        check_number("min_silhouette", min_silhouette, at_least=-1, at_most=1)
        check_number("tau", tau, above=0)
        check_number("min_trust", min_trust, at_least=0, at_most=1)
        check_number("max_norm_ratio", max_norm_ratio, above=1)
        check_number("margin", margin, at_least=0, below=1)
        check_number("trigger_margin", trigger_margin, at_least=0, below=1)
        check_number("trigger_budget", trigger_budget, above=0, at_most=1)
        check_number("aux_samples", aux_samples, at_least=2)
        self.mode = mode
        self.vector = vector or ("weights" if mode == "paper" else "delta")
        self.max_clusters = max_clusters
        self.min_silhouette = min_silhouette
        self.tau = tau
        self.min_trust = min_trust
        self.max_norm_ratio = max_norm_ratio
        self.margin = margin
        self.trigger_margin = trigger_margin
        self.trigger_budget = trigger_budget
        self.aux_samples = aux_samples
        self._accepted_norm = torch.zeros(0, dtype=torch.float64)

    def reset(self) -> None:
        """Forget the accepted norms of earlier rounds."""
        self._accepted_norm = torch.zeros(0, dtype=torch.float64)

    def refined_traits(self) -> Traits:
        """Return the traits; paper mode reads no labels."""
        return self.traits.but(server_data="unlabelled") if self.mode == "paper" else self.traits

    def state(self) -> dict[str, Tensor]:
        """Return the accepted norms of the newest rounds."""
        return {"accepted_norm": self._accepted_norm}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` returned."""
        self._accepted_norm = state["accepted_norm"]

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Take both views and average what remains; see `RobustStrategy.combine`."""
        count = len(updates)
        gram = shared_gram(updates)
        norms = shared_norms(updates)
        euclidean = shared_distances(updates).sqrt()
        everybody = np.ones(count, dtype=bool)
        state = JudgedRound(updates, norms, everybody, {}, {"norm": norms}, torch.ones_like(norms))
        if count >= 4:
            self._weight_view(state, self._cosine(updates, gram), euclidean)
        elif count == 3:
            reject_far_third(state, euclidean)
        trust = self._latent_view(state)
        if self.mode == "paper":
            return self._aggregate(state, trust)
        if self.tools is None:
            return self._aggregate(state, claimed_shares(updates, CLAIM_CAP))
        verification = Verification(
            self.tools,
            state,
            margin=self.margin,
            trigger_margin=self.trigger_margin,
            trigger_budget=self.trigger_budget,
            aux_samples=self.aux_samples,
        )
        return self._aggregate(state, verification.run())

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
        chosen: set[int] | None = None
        if self.mode == "paper":
            labels = adaptive_clusters(combined, self.max_clusters, self.min_silhouette)
            chosen = {central_largest_cluster(labels, state.updates)}
        else:
            votes = copy_votes(distance)
            labels = self._clusters_of_votes(combined, votes)
            if self.tools is None:
                chosen = majority_clusters(labels, votes, state.updates)
            reject_copies(state, votes)
            self._reject_long(state)
        for row, label in enumerate(labels):
            if chosen is not None and int(label) not in chosen:
                state.reject(row, "far from the majority in weight space")
        state.scores["cluster"] = torch.as_tensor(labels, dtype=torch.float64)
        state.scores["distance"] = torch.as_tensor(np.median(combined, axis=1))

    def _reject_long(self, state: JudgedRound) -> None:
        """Reject updates that are too long for the median norm of those still in."""
        typical = float(median(state.norms[torch.as_tensor(state.keep)]))
        limits = (self.max_norm_ratio * typical * claimed_reach(state.updates)).tolist()
        for row, norm in enumerate(state.norms.tolist()):
            if norm > limits[row] > 0.0:
                state.reject(row, f"{norm / typical:.1f} times as long as the median update")

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
        self._record_latent(state, rows, typical, trust)
        return torch.where(torch.as_tensor(state.keep), trust, 0.0)

    def _activations(self, state: JudgedRound, rows: np.ndarray) -> Tensor:
        assert self.tools is not None
        updates = state.updates
        models = (updates.global_vector + updates.deltas[int(row)] for row in rows)
        step = max(1, len(self.tools.x) // self.aux_samples)
        x = self.tools.x[::step][: self.aux_samples]
        return client_activations(self.tools, updates.layout, models, x)

    def _record_latent(
        self, state: JudgedRound, rows: np.ndarray, typical: Tensor, trust: Tensor
    ) -> None:
        discrepancy = torch.full((len(trust),), float("nan"), dtype=torch.float64)
        discrepancy[rows] = typical
        state.scores["mmd"] = discrepancy
        state.scores["trust"] = trust
        if self.mode != "paper":
            return
        floor = self.min_trust * float(trust[rows].median())
        for row in rows:
            if float(trust[row]) < floor:
                state.reject(int(row), "latent representation unlike the others'")

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
        """Return the norm that accepted updates are clipped to; 0 for no clipping."""
        accepted = state.norms[torch.as_tensor(state.keep)]
        current = float(accepted.min() if len(accepted) == 2 else median(accepted))
        earlier = self._accepted_norm
        if len(accepted) == 1 and len(earlier):
            current = min(current, float(earlier.median()))
        self._accepted_norm = torch.cat([earlier, median(accepted)[None]])[-9:]
        return current
