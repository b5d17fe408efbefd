"""VGAE: a variational graph auto-encoder for links."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedguard.errors import ConfigurationError, check_number

_WIDEST = 5.0
"""Largest log deviation of a node's place; larger ones are cut."""


def normalised(edges: Tensor, nodes: int) -> Tensor:
    """Return ``D^-1/2 (A + I) D^-1/2`` of undirected (M, 2) edges, a sparse (N, N) tensor.

    Edges that are written twice, either way round, count once; loops do not count.
    """
    ends = edges[edges[:, 0] != edges[:, 1]]
    own = torch.arange(nodes, device=edges.device)
    pairs = torch.cat([ends, ends.flip(1), torch.stack([own, own], dim=1)]).T
    ones = torch.ones(pairs.shape[1], device=edges.device)
    adjacency = torch.sparse_coo_tensor(pairs, ones, (nodes, nodes)).coalesce()
    rows, columns = adjacency.indices()
    ones = torch.ones(len(rows), device=edges.device)
    degree = torch.zeros(nodes, device=edges.device).index_add_(0, rows, ones)
    values = (degree[rows] * degree[columns]).rsqrt()
    return torch.sparse_coo_tensor(adjacency.indices(), values, (nodes, nodes)).coalesce()


class Vgae(nn.Module):
    """Two layers of graph convolution give every node a place; near places are linked.

    ``H = relu(S X W0)``, ``mu = S H W1``, ``log sigma = S H W2``, S the normalised adjacency and X
    the features; a pair's logit is ``z_i z_j``, z drawn around mu in training and mu itself
    afterwards. Beside the logit each pair has its nodes' mean divergence from a standard normal,
    divided by the number of nodes, as the loss weighs it.

    Kipf and Welling, "Variational Graph Auto-Encoders", NIPS workshop 2016; pairs of a batch in
    place of all pairs. The latent layer is ``first``.

    Parameters
    ----------
    input_shape : tuple of int
        (2,): rows are pairs of nodes.
    num_classes : int
        2.
    features : int
        Number F of node features; 0 stands for those of the data set.
    hidden : int
        Width of the first layer, at least 1.
    latent : int
        Width of the places, at least 1.
    """

    latent_layer = "first"

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        features: int = 0,
        hidden: int = 32,
        latent: int = 16,
    ) -> None:
        super().__init__()
        if tuple(input_shape) != (2,):
            raise ConfigurationError("model", "vgae", "a graph's data set, such as cora")
        check_number("features", features, at_least=0)
        check_number("hidden", hidden, at_least=1)
        check_number("latent", latent, at_least=1)
        self.first = nn.Linear(max(features, 1), hidden, bias=False)
        self.places = nn.Linear(hidden, latent, bias=False)
        self.spread = nn.Linear(hidden, latent, bias=False)
        for layer in (self.first, self.places, self.spread):
            nn.init.xavier_uniform_(layer.weight)
        self.graph: tuple[Tensor, Tensor] | None = None

    def take_graph(self, features: Tensor, edges: Tensor) -> None:
        """Compute with this graph from now on.

        Parameters
        ----------
        features : Tensor
            (N, F) sparse.
        edges : Tensor
            (M, 2) int64.
        """
        device = self.first.weight.device
        adjacency = normalised(edges.to(device), int(features.shape[0]))
        self.graph = features.to(device), adjacency

    def encode(self) -> tuple[Tensor, Tensor]:
        """Return the (N, latent) mean places and log deviations of the nodes."""
        assert self.graph is not None
        features, adjacency = self.graph
        mixed = torch.sparse.mm(features, self.first.weight.T)
        hidden = torch.sparse.mm(adjacency, mixed).relu()
        places = torch.sparse.mm(adjacency, self.places(hidden))
        return places, torch.sparse.mm(adjacency, self.spread(hidden)).clamp(max=_WIDEST)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 2): logits of (B, 2) pairs of nodes, and their part of the divergence."""
        if self.graph is None:  # tried out before anybody has given it a graph
            count = int(x.max()) + 1
            ones = torch.ones(count, self.first.in_features, device=x.device)
            self.take_graph(ones.to_sparse(), torch.empty(0, 2, dtype=torch.int64))
            found = self.forward(x)
            self.graph = None
            return found
        mean, log = self.encode()
        z = mean + torch.randn_like(log) * log.exp() if self.training else mean
        each = 0.5 * (mean.square() + (2.0 * log).exp() - 1.0 - 2.0 * log).sum(dim=1)
        one, other = x[:, 0], x[:, 1]
        logits = (z[one] * z[other]).sum(dim=1)
        return torch.stack([logits, (each[one] + each[other]) / (2.0 * len(mean))], dim=1)
