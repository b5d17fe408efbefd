"""GeminiGuard: model-weight analysis, then latent-space analysis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fedguard.errors import check_choice, check_number
from fedguard.strategies.base import RobustStrategy
from fedguard.strategies.toolkit.averaging import average, clip_factors, median
from fedguard.strategies.toolkit.clustering import Labels, adaptive_clusters, off_diagonal_median
from fedguard.strategies.toolkit.coordinates import coordinate_median
from fedguard.strategies.toolkit.distances import (
    cosine_distances,
    shared_distances,
    shared_gram,
    shared_norms,
)
from fedguard.strategies.toolkit.latent import client_activations, squared_mmd
from fedguard.strategies.toolkit.server_validation import (
    Objective,
    Pruned,
    load_average,
    prune_harmful,
    server_loss,
)
from fedguard.strategies.toolkit.trigger_search import (
    Triggers,
    search_triggers,
    stamp_effect,
    success_rates,
    teachers,
)
from fedguard.traits import Traits
from fedguard.updates import ClientUpdates, Verdict

COPY_RADIUS = 0.05
"""Updates closer than this share of the median distance count as copies of one vote."""

COPY_BLOCK = 3
"""So many near-identical updates or more are rejected: honest training does not repeat itself."""

SMALLEST_PATCH = 2.0
"""Positions that a patch must be allowed to cover: any one alone may well decide a class."""

TRIGGER_STEPS = 20
"""Steps of the search for patches."""

SUSPECTS = 3
"""So many classes at most are looked at, those whose patch moves most examples."""

SUSPICION = 1.5
"""A class is looked at if its patch moves more than this multiple of what a typical class' does."""

CLAIM_CAP = 3.0
"""Claimed numbers of examples count up to this multiple of their median ..."""

WIDE_CLAIM_CAP = 10.0
"""... and up to this one where that lowers the server's loss."""


@dataclass
class _Round:
    """What is known of the round's clients while the views are taken; every array is (K,).

    `reach` is what a client's norm is clipped to, in units of the median norm.
    """

    updates: ClientUpdates
    norms: Tensor
    keep: np.ndarray
    reasons: dict[int, str]
    scores: dict[str, Tensor]
    reach: Tensor

    def reject(self, row: int, reason: str) -> None:
        if self.keep[row]:
            self.keep[row] = False
            self.reasons[self.updates.node_ids[row]] = reason


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
        state = _Round(updates, norms, everybody, {}, {"norm": norms}, torch.ones_like(norms))
        if count >= 4:
            self._weight_view(state, self._cosine(updates, gram), euclidean)
        elif count == 3:
            _reject_far_third(state, euclidean)
        trust = self._latent_view(state)
        if self.mode == "paper":
            return self._aggregate(state, trust)
        return self._aggregate(state, self._verify(state))

    def _cosine(self, updates: ClientUpdates, gram: Tensor) -> Tensor:
        if self.vector == "delta":
            return cosine_distances(gram)
        # <g + d_i, g + d_j> from the Gram matrix of the deltas, all in float64.
        start = updates.global_vector[: updates.layout.num_trainable].to(torch.float64)
        along = torch.stack([row.to(torch.float64) @ start for row in updates.trainable])
        return cosine_distances(gram + along[:, None] + along[None, :] + start @ start)

    def _weight_view(self, state: _Round, cosine: Tensor, euclidean: Tensor) -> None:
        distance = np.asarray(euclidean)
        combined = _scaled(np.asarray(cosine)) + _scaled(distance)
        chosen: set[int] | None = None
        if self.mode == "paper":
            labels = adaptive_clusters(combined, self.max_clusters, self.min_silhouette)
            chosen = {_largest_cluster(labels, state.updates)}
        else:
            votes = _votes(distance)
            labels = self._clusters_of_votes(combined, votes)
            if self.tools is None:
                chosen = _majority(labels, votes, state.updates)
            _reject_copies(state, votes)
            self._reject_long(state)
        for row, label in enumerate(labels):
            if chosen is not None and int(label) not in chosen:
                state.reject(row, "far from the majority in weight space")
        state.scores["cluster"] = torch.as_tensor(labels, dtype=torch.float64)
        state.scores["distance"] = torch.as_tensor(np.median(combined, axis=1))

    def _reject_long(self, state: _Round) -> None:
        """Reject updates that are too long for the median norm of those still in."""
        typical = float(median(state.norms[torch.as_tensor(state.keep)]))
        limits = (self.max_norm_ratio * typical * _reach(state.updates)).tolist()
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

    def _latent_view(self, state: _Round) -> Tensor:
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

    def _activations(self, state: _Round, rows: np.ndarray) -> Tensor:
        assert self.tools is not None
        updates = state.updates
        models = (updates.global_vector + updates.deltas[int(row)] for row in rows)
        step = max(1, len(self.tools.x) // self.aux_samples)
        x = self.tools.x[::step][: self.aux_samples]
        return client_activations(self.tools, updates.layout, models, x)

    def _record_latent(
        self, state: _Round, rows: np.ndarray, typical: Tensor, trust: Tensor
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

    def _verify(self, state: _Round) -> Tensor:
        """Reject who raises the server's loss, then who plants a patch; return the (K,) shares."""
        shares = _shares(state.updates, CLAIM_CAP)
        if self.tools is None:
            return shares
        harm = self._prune(state, shares, server_loss(self.tools), self.margin)
        if harm is None:
            return shares
        state.scores["harm"] = harm.harm
        self._reject_pruned(state, harm, "raises the loss on the server's examples")
        shares = self._widen(state, shares)
        positions = (
            self.tools.x[0, :1].numel() if self.tools.x.ndim == 4 else self.tools.x[0].numel()
        )
        if self.trigger_margin > 0.0 and self.trigger_budget * positions >= SMALLEST_PATCH:
            self._search_backdoor(state, shares)
        return shares

    def _widen(self, state: _Round, shares: Tensor) -> Tensor:
        """Return shares, and set reaches, that believe large claims if the loss is lower so."""
        before = self._loss(state, shares)
        wide = _shares(state.updates, WIDE_CLAIM_CAP)
        state.reach = _reach(state.updates)
        if self._loss(state, wide) < before:
            return wide
        state.reach = torch.ones_like(state.reach)
        return shares

    def _loss(self, state: _Round, shares: Tensor) -> float:
        assert self.tools is not None
        self._load(state, shares)
        with torch.no_grad():
            return float(server_loss(self.tools)(self.tools.model))

    def _load(self, state: _Round, shares: Tensor) -> None:
        """Load the average of those still in into the server's model."""
        assert self.tools is not None
        keep = torch.as_tensor(state.keep)
        load_average(self.tools, state.updates, keep, shares, self._factors(state))

    def _search_backdoor(self, state: _Round, shares: Tensor) -> None:
        """Search the average for patches that mean a class; reject those who teach them."""
        tools = self.tools
        assert tools is not None
        self._load(state, shares)
        step = max(1, len(tools.x) // self.aux_samples)
        triggers = search_triggers(
            tools.model,
            tools.x[::step][: self.aux_samples],
            tools.num_classes,
            budget=self.trigger_budget,
            steps=TRIGGER_STEPS,
        )
        rates = success_rates(tools.model, tools.x, tools.y, triggers)
        state.scores["patch"] = torch.zeros(len(state.keep), dtype=torch.float64)
        for target in rates.argsort(descending=True)[:SUSPECTS].tolist():
            if float(rates[target]) > SUSPICION * float(rates.median()):
                self._reject_teachers(state, shares, triggers, target)

    def _reject_teachers(
        self, state: _Round, shares: Tensor, triggers: Triggers, target: int
    ) -> None:
        """Reject who teaches the patch of a class, as long as its effect falls."""
        tools = self.tools
        assert tools is not None
        self._load(state, shares)
        teach = teachers(tools, triggers, target, state.updates)
        effect = stamp_effect(triggers, target, tools.x, tools.y)
        pruned = self._prune(state, shares, effect, self.trigger_margin, teach)
        if pruned is not None:
            state.scores["patch"] = torch.maximum(state.scores["patch"], pruned.harm)
            self._reject_pruned(state, pruned, f"teaches a patch that means class {target}")

    def _prune(
        self,
        state: _Round,
        shares: Tensor,
        objective: Objective,
        margin: float,
        candidates: Tensor | None = None,
    ) -> Pruned | None:
        keep = torch.as_tensor(state.keep)
        if self.tools is None or int(keep.sum()) < 3:
            return None
        return prune_harmful(
            self.tools,
            objective,
            state.updates,
            keep,
            shares,
            self._factors(state),
            margin=margin,
            fewest=(len(keep) + 1) // 2,
            candidates=candidates,
        )

    def _factors(self, state: _Round) -> Tensor:
        """Return the (K,) factors that clip to the median norm of those still in, or its reach."""
        typical = float(median(state.norms[torch.as_tensor(state.keep)]))
        if not typical > 0.0:
            return torch.ones_like(state.norms)
        return clip_factors(state.norms, typical * state.reach)

    def _reject_pruned(self, state: _Round, pruned: Pruned, reason: str) -> None:
        for row in (torch.as_tensor(state.keep) & ~pruned.keep).nonzero().flatten().tolist():
            state.reject(row, reason)

    def _aggregate(self, state: _Round, shares: Tensor) -> Verdict:
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

    def _norm_limit(self, state: _Round) -> float:
        """Return the norm that accepted updates are clipped to; 0 for no clipping."""
        accepted = state.norms[torch.as_tensor(state.keep)]
        current = float(accepted.min() if len(accepted) == 2 else median(accepted))
        earlier = self._accepted_norm
        if len(accepted) == 1 and len(earlier):
            current = min(current, float(earlier.median()))
        self._accepted_norm = torch.cat([earlier, median(accepted)[None]])[-9:]
        return current


def _shares(updates: ClientUpdates, cap: float) -> Tensor:
    """Return the (K,) claimed numbers of examples, at most `cap` times their median."""
    claims = updates.num_examples
    return claims.clamp(max=cap * float(median(claims)))


def _reach(updates: ClientUpdates) -> Tensor:
    """Return how much longer than usual an update may be for what it claims: (K,), from 1.

    Twice the examples are twice the steps; steps that point everywhere add up to the square root.
    """
    claims = updates.num_examples
    return (claims / float(median(claims))).clamp(1.0, WIDE_CLAIM_CAP).sqrt()


def _scaled(distances: np.ndarray) -> np.ndarray:
    """Return half the distances in units of their median; zeros where the median is 0."""
    middle = off_diagonal_median(distances)
    return distances / (2.0 * middle) if middle > 0.0 else np.zeros_like(distances)


def _largest_cluster(labels: Labels, updates: ClientUpdates) -> int:
    """Return the largest cluster; of equally large ones that nearest to the median update."""
    sizes = np.bincount(labels)
    gaps = _gaps_to_median(labels, updates)
    return min(range(len(sizes)), key=lambda label: (-sizes[label], gaps[label]))


def _gaps_to_median(labels: Labels, updates: ClientUpdates) -> list[float]:
    """Return each cluster's median distance to the coordinate-wise median of its members."""
    centre = coordinate_median(updates.trainable)
    gaps = torch.stack([(row - centre).to(torch.float64).norm() for row in updates.trainable])
    return [float(gaps[torch.as_tensor(labels == k)].median()) for k in range(labels.max() + 1)]


def _votes(distance: np.ndarray) -> Labels:
    """Return which vote each client belongs to: near-identical updates share one."""
    radius = COPY_RADIUS * off_diagonal_median(distance)
    votes = np.full(len(distance), -1, dtype=np.int64)
    vote = 0
    for row in range(len(distance)):
        if votes[row] < 0:
            votes[(distance[row] <= radius) & (votes < 0)] = vote
            vote += 1
    return votes


def _reject_copies(state: _Round, votes: Labels) -> None:
    sizes = np.bincount(votes)
    if len(sizes) == 1:
        return  # everybody agrees, as with an unchanged model: nothing tells clients apart
    for row, vote in enumerate(votes):
        if sizes[vote] >= COPY_BLOCK:
            state.reject(row, f"one of {sizes[vote]} near-identical updates")


def _majority(labels: Labels, votes: Labels, updates: ClientUpdates) -> set[int]:
    """Return the clusters nearest to the robust centre that hold more than half of the votes."""
    first = [int(np.flatnonzero(votes == vote)[0]) for vote in range(votes.max() + 1)]
    gaps = _gaps_to_median(labels[first], updates.select(first))
    sizes = np.bincount(labels[first])
    chosen: set[int] = set()
    for label in sorted(range(len(sizes)), key=lambda k: gaps[k]):
        if sum(sizes[k] for k in chosen) > len(first) // 2:
            break
        chosen.add(label)
    return chosen


def _reject_far_third(state: _Round, euclidean: Tensor) -> None:
    """Of three clients reject one that is over three times as far from both as they are apart."""
    for row in range(3):
        a, b = (other for other in range(3) if other != row)
        apart = float(euclidean[a, b])
        if min(float(euclidean[row, a]), float(euclidean[row, b])) > 3.0 * apart > 0.0:
            state.reject(row, "far from the two others")
