"""Other forms of geminiguard, for measurement: what a road not taken would have done.

Each is `geminiguard` with one thing changed; none is registered. `Signs` decides nothing and
records what could be told of each client, for `simulations.geminiguard_roads` to look at.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor, nn

from fedguard.data.vision import Mnist
from fedguard.errors import check_choice
from fedguard.models.build import latent_activations
from fedguard.strategies.geminiguard import GeminiGuard
from fedguard.strategies.toolkit.averaging import average, clip_factors, median
from fedguard.strategies.toolkit.clustering import Labels
from fedguard.strategies.toolkit.distances import (
    cosine_distances,
    shared_distances,
    shared_gram,
    shared_norms,
)
from fedguard.strategies.toolkit.judged_round import JudgedRound
from fedguard.strategies.toolkit.latent import client_activations, squared_mmd
from fedguard.strategies.toolkit.patch_memory import PatchMemory
from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.strategies.toolkit.weight_view import scaled
from fedguard.updates import ClientUpdates, Verdict

GROUP = 3
"""Clients to a cluster, on average, where clusters are compared."""


def groups_of(updates: ClientUpdates) -> Labels:
    """Return each client's cluster (K,), average linkage on the weight view's distances.

    Each is its own where there are too few to group.
    """
    if len(updates) < 2 * GROUP:
        return np.arange(len(updates), dtype=np.int64)
    distance = np.asarray(shared_distances(updates).sqrt())
    combined = scaled(np.asarray(cosine_distances(shared_gram(updates)))) + scaled(distance)
    np.fill_diagonal(combined, 0.0)
    tree = linkage(squareform(combined, checks=False), "average")
    return fcluster(tree, len(updates) // GROUP, "maxclust").astype(np.int64) - 1


def means_of(updates: ClientUpdates, labels: Labels) -> ClientUpdates:
    """Return the mean update of each cluster, its members clipped to the round's median norm."""
    norms = shared_norms(updates)
    factors = clip_factors(norms, float(median(norms)))
    rows = []
    for label in range(int(labels.max()) + 1):
        inside = torch.as_tensor(labels == label).to(torch.float64)
        rows.append(average(updates, inside / inside.sum(), factors))
    return ClientUpdates.from_matrix(
        torch.stack(rows),
        node_ids=range(len(rows)),
        global_vector=updates.global_vector,
        layout=updates.layout,
        server_round=updates.server_round,
    )


class Signs(GeminiGuard):
    """Average everybody, clipped; score each client by five latent signs and its distance.

    ``mmd``, of the latent activations of clients' models, and what may say more: ``change``, of
    their difference from the global model's; ``class``, the same, the worst predicted class of
    each client; ``output``, of the class probabilities; ``aggregate``, the change of the mean of
    a client's cluster. ``weights`` is the median distance of its update.
    """

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the clipped mean of all; see the class."""
        assert self.tools is not None
        tools, norms = self.tools, shared_norms(updates)
        step = max(1, len(tools.x) // self.aux_samples)
        x = tools.x[::step][: self.aux_samples]
        own = self._latent(updates, x)
        layout, start = updates.layout, updates.global_vector
        layout.load(tools.model, start)
        before = latent_activations(tools.model, x, tools.latent_layer)
        with torch.no_grad():
            classes = tools.model(x).argmax(dim=1)
        change = own - before
        labels = groups_of(updates)
        grouped = self._latent(means_of(updates, labels), x) - before
        scores = {
            "mmd": _typical(own),
            "change": _typical(change),
            "class": _worst_class(change, classes),
            "output": _typical(self._outputs(updates, x)),
            "aggregate": _typical(grouped)[torch.as_tensor(labels)],
            "weights": _weights(updates),
        }
        weights = torch.full((len(updates),), 1.0 / len(updates), dtype=torch.float64)
        factors = clip_factors(norms, self.clip_ratio * float(median(norms)))
        return Verdict(average(updates, weights, factors), weights, scores, {})

    def _latent(self, updates: ClientUpdates, x: Tensor) -> Tensor:
        assert self.tools is not None
        models = (updates.global_vector + row for row in updates.deltas)
        return client_activations(self.tools, updates.layout, models, x)

    def _outputs(self, updates: ClientUpdates, x: Tensor) -> Tensor:
        assert self.tools is not None
        found = []
        for row in updates.deltas:
            updates.layout.load(self.tools.model, updates.global_vector + row)
            with torch.no_grad():
                found.append(nn.functional.softmax(self.tools.model(x), dim=1))
        return torch.stack(found)


def _typical(activations: Tensor) -> Tensor:
    """Return each client's median discrepancy from the others, (K,)."""
    if len(activations) < 2:
        return torch.zeros(len(activations), dtype=torch.float64)
    discrepancy = squared_mmd(activations)
    others = discrepancy[~torch.eye(len(activations), dtype=torch.bool)]
    return others.view(len(activations), -1).median(dim=1).values


def _worst_class(change: Tensor, classes: Tensor) -> Tensor:
    """Return how far a client's mean change of a predicted class is from the median client's.

    In median such distances of the class; the largest over classes, (K,).
    """
    worst = torch.zeros(len(change), dtype=torch.float64)
    for label in sorted(set(classes.tolist())):
        mean = change[:, classes == label].mean(dim=1).to(torch.float64)
        gap = (mean - mean.median(dim=0).values).norm(dim=1)
        worst = torch.maximum(worst, gap / gap.median().clamp(min=1e-12))
    return worst


def _weights(updates: ClientUpdates) -> Tensor:
    cosine = np.asarray(cosine_distances(shared_gram(updates)))
    distance = np.asarray(shared_distances(updates).sqrt())
    return torch.as_tensor(np.median(scaled(cosine) + scaled(distance), axis=1))


class Representatives(GeminiGuard):
    """A representative per cluster, averaged by latent trust, in place of rejection.

    Copies are one vote; the mean of each cluster, members clipped to the median norm, counts by its
    trust, ``exp(-m / (tau median m))`` of its median discrepancy m from the other clusters'.
    """

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Return the trusted mean over clusters; see the class."""
        assert self.tools is not None
        labels = groups_of(updates)
        means = means_of(updates, labels)
        step = max(1, len(self.tools.x) // self.aux_samples)
        x = self.tools.x[::step][: self.aux_samples]
        models = (means.global_vector + row for row in means.deltas)
        found = _typical(client_activations(self.tools, means.layout, models, x))
        centre = float(found.median())
        trust = torch.exp(-found / (self.tau * centre)) if centre > 0.0 else torch.ones_like(found)
        shares = trust / trust.sum()
        sizes = torch.as_tensor(np.bincount(labels), dtype=torch.float64)
        weights = (shares / sizes)[torch.as_tensor(labels)]
        return Verdict(
            average(means, shares), weights, {"trust": trust[torch.as_tensor(labels)]}, {}
        )


class OnAggregates(GeminiGuard):
    """The latent view asks the mean of each cluster who teaches a patch; clusters go whole."""

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Reject clusters, then go on with the weight view and the average of geminiguard."""
        labels = groups_of(updates)
        means = means_of(updates, labels)
        norms = shared_norms(means)
        keep = np.ones(len(means), dtype=bool)
        judged = JudgedRound(means, norms, keep, {}, {}, torch.ones_like(norms))
        assert self.tools is not None
        self._search(self.tools, judged).run()
        self._patches = PatchMemory()  # clusters of one round are not those of the next
        rejected = {int(node): why for node, why in judged.reasons.items()}
        state, _ = self._seen(updates)
        for row, label in enumerate(labels):
            if int(label) in rejected:
                state.reject(row, f"its cluster {rejected[int(label)]}")
        return self._aggregate(state, torch.ones(len(updates), dtype=torch.float64))


class Elsewhere(GeminiGuard):
    """Geminiguard whose rows are other data: noise, or MNIST's first training images.

    Parameters
    ----------
    rows : {"noise", "mnist"}
        What takes the place of the server's rows, as many of them.
    folder : str
        Where MNIST's files are.
    """

    def __init__(self, *, rows: str = "noise", folder: str = "", **options: Any) -> None:
        super().__init__(**options)
        check_choice("rows", rows, ("noise", "mnist"))
        self.rows, self.folder = rows, folder
        self._elsewhere: ServerTools | None = None

    def combine(self, updates: ClientUpdates) -> Verdict:
        """Decide as geminiguard does, on the other rows."""
        if self._elsewhere is None and self.tools is not None:
            self._elsewhere = replace(self.tools, x=self._other(self.tools.x))
        self.tools = self._elsewhere
        return super().combine(updates)

    def _other(self, x: Tensor) -> Tensor:
        if self.rows == "mnist":
            data = Mnist().load(Path(self.folder))
            return ((data.x_train[: len(x)] - Mnist.mean[0]) / Mnist.std[0]).to(x)
        return torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
