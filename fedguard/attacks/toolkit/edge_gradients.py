"""Gradients of an attacker's loss with respect to every edge of a graph, over a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fedguard import registry
from fedguard.attacks.toolkit.edge_edits import OwnGraph


@dataclass(frozen=True)
class EdgeGradients:
    """Slopes of the attacker's loss: at every present link, and at absent pairs.

    Attributes
    ----------
    links : Tensor
        (E,) slope of each of the graph's links.
    pairs : Tensor
        (P, 2) pairs i < j whose slopes are known.
    slopes : Tensor
        (P,) their slopes.
    """

    links: Tensor
    pairs: Tensor
    slopes: Tensor


@dataclass
class Surrogate:
    """A VGAE that the attacker trains on its own graph, and what its training says of the edges.

    In every epoch e, L is the cross-entropy of the attacked pairs by the mean places. With
    ``P0 = X W0``, ``H = relu(S P0)``, ``P1 = H W1``, ``mu = S P1`` the slope of S has low rank,
    ``dL/dS = dL/d(S P0) P0^T + dL/dmu P1^T``, so that it is known at any pair without a matrix of
    all pairs. The slopes of the epochs are added up, `weights` of each.

    Parameters
    ----------
    own : OwnGraph
        The client's graph.
    edges : Tensor
        (E, 2) links that it trains on.
    attacked, wanted : Tensor
        (K, 2) attacked pairs and (K,) 1 where one is a link.
    epochs : int
        Epochs of the training.
    lr : float
        Adam's learning rate.
    """

    own: OwnGraph
    edges: Tensor
    attacked: Tensor
    wanted: Tensor
    epochs: int
    lr: float

    def slopes(self, weights: Tensor, rng: torch.Generator, pairs: Tensor | None) -> EdgeGradients:
        """Train the surrogate; return the summed slopes of the adjacency's entries.

        Parameters
        ----------
        weights : Tensor
            (epochs,) weight of each epoch.
        rng : torch.Generator
            Decides the start and the drawn places.
        pairs : Tensor or None
            (P, 2) absent pairs whose slopes are wanted; all pairs of the graph if None.
        """
        size, present = self.own.size, self.edges
        model = self._model(rng)
        optimiser = torch.optim.Adam(model.parameters(), lr=self.lr)
        rows = torch.cat([self.edges, self.own.absent])
        links, apart = len(self.edges), max(len(self.own.absent), 1)
        labels = torch.cat([torch.ones(links), torch.zeros(len(self.own.absent))])
        # Links count as much as absent pairs together.
        balance = torch.where(labels > 0, 0.5 / links, 0.5 / apart) * len(labels)
        dense = torch.zeros(size, size) if pairs is None else None
        at_links, at_own = torch.zeros(len(present)), torch.zeros(size)
        at_pairs = torch.zeros(0 if pairs is None else len(pairs))
        for epoch in range(self.epochs):
            optimiser.zero_grad()
            mean, log = model.encode()
            z = mean + torch.randn(log.shape, generator=rng) * log.exp()
            logits = (z[rows[:, 0]] * z[rows[:, 1]]).sum(dim=1)
            each = 0.5 * (mean.square() + (2.0 * log).exp() - 1.0 - 2.0 * log).sum(dim=1)
            loss = functional.binary_cross_entropy_with_logits(logits, labels, weight=balance)
            torch.autograd.backward(loss + each.mean() / size)
            weight = float(weights[epoch])
            if weight:
                left, right = self._factors(model)
                if dense is not None:
                    dense.addmm_(left, right.T, alpha=weight)
                at_links += weight * _both(left, right, present)
                at_own += weight * 2.0 * (left * right).sum(dim=1)
                if pairs is not None:
                    at_pairs += weight * _both(left, right, pairs)
            optimiser.step()
        return self._to_adjacency(at_links, at_own, at_pairs, dense, pairs)

    def _model(self, rng: torch.Generator) -> Any:
        width = int(self.own.features.shape[1])
        shape = {"input_shape": (2,), "num_classes": 2, "features": width}
        model = registry.create("model", "vgae", **shape)
        with torch.no_grad():
            for value in model.parameters():
                bound = (6.0 / (value.shape[0] + value.shape[1])) ** 0.5
                value.copy_((2.0 * torch.rand(value.shape, generator=rng) - 1.0) * bound)
        model.take_graph(self.own.features, self.edges)
        return model.train()

    def _factors(self, model: Any) -> tuple[Tensor, Tensor]:
        """Return (n, r) tensors whose product ``left right^T`` is the slope of S."""
        assert model.graph is not None
        features, adjacency = model.graph
        with torch.enable_grad():
            first = torch.sparse.mm(features, model.first.weight.detach().T)
            inner = torch.sparse.mm(adjacency, first).detach().requires_grad_()
            second = model.places(inner.relu())
            mean = torch.sparse.mm(adjacency, second)
            one, other = self.attacked[:, 0], self.attacked[:, 1]
            logits = (mean[one] * mean[other]).sum(dim=1)
            loss = functional.binary_cross_entropy_with_logits(logits, self.wanted.float())
            at_inner, at_mean = torch.autograd.grad(loss, (inner, mean))
        return torch.cat([at_inner, at_mean], dim=1), torch.cat([first, second.detach()], dim=1)

    def _to_adjacency(
        self,
        at_links: Tensor,
        at_own: Tensor,
        at_pairs: Tensor,
        dense: Tensor | None,
        pairs: Tensor | None,
    ) -> EdgeGradients:
        """Lead slopes of ``S = D^-1/2 (A + I) D^-1/2`` back to those of A, with its degrees."""
        size, one, other = self.own.size, self.edges[:, 0], self.edges[:, 1]
        degree = torch.ones(size).index_add_(0, self.edges.flatten(), torch.ones(2 * len(one)))
        through = at_links * (degree[one] * degree[other]).rsqrt()
        # Each degree stands in its own entry and, twice over, in those of the node's links.
        share = at_own / degree
        share.index_add_(0, one, through).index_add_(0, other, through)
        lost = 0.5 * share / degree

        def led(slope: Tensor, ends: Tensor) -> Tensor:
            i, j = ends[:, 0], ends[:, 1]
            return slope * (degree[i] * degree[j]).rsqrt() - lost[i] - lost[j]

        if dense is not None:
            i, j = torch.triu_indices(size, size, offset=1)
            pairs, at_pairs = torch.stack([i, j], dim=1), (dense + dense.T)[i, j]
        assert pairs is not None
        return EdgeGradients(led(at_links, self.edges), pairs, led(at_pairs, pairs))


def _both(left: Tensor, right: Tensor, pairs: Tensor) -> Tensor:
    """Return the slopes of both entries, (i, j) and (j, i), of pairs, added."""
    i, j = pairs[:, 0], pairs[:, 1]
    return (left[i] * right[j]).sum(dim=1) + (left[j] * right[i]).sum(dim=1)
