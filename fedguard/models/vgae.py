"""VGAE: a variational graph auto-encoder for links."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
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


@dataclass(frozen=True)
class LowRank:
    """``D^-1/2 (U diag(l) U^T + I) D^-1/2`` as factors, which no (N, N) tensor is made of.

    Attributes
    ----------
    vectors, values : Tensor
        (N, R) and (R,): U and l.
    root : Tensor
        (N,) square roots of 1 / degree; degrees below 1, which an approximation may have, are 1.
    """

    vectors: Tensor
    values: Tensor
    root: Tensor

    def mm(self, x: Tensor) -> Tensor:
        """Return the product with an (N, C) tensor."""
        inner = self.root[:, None] * x
        spread = self.vectors @ (self.values[:, None] * (self.vectors.T @ inner))
        return self.root[:, None] * (spread + inner)


def low_rank(edges: Tensor, nodes: int, rank: int) -> LowRank:
    """Return the adjacency of a rank nearest to that of (M, 2) edges, with loops, normalised.

    Entezari, Al-Sayouri, Darvishzadeh and Papalexakis, "All You Need Is Low (Rank): Defending
    Against Adversarial Attacks on Graphs", WSDM 2020. An adjacency is symmetric, so that its
    singular vectors are its eigenvectors; those of largest absolute value are kept.
    """
    found = _factors(edges.cpu().numpy().tobytes(), nodes, rank)
    vectors, values = (torch.from_numpy(part).to(edges.device) for part in found)
    degree = vectors @ (values * vectors.sum(dim=0)) + 1.0
    return LowRank(vectors, values, degree.clamp(min=1.0).rsqrt())


@lru_cache(maxsize=32)
def _factors(
    edges: bytes, nodes: int, rank: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return eigenvectors and eigenvalues; kept, since a client's graph is the same every round."""
    import scipy.sparse as sp
    from scipy.sparse.linalg import eigsh

    ends = np.frombuffer(edges, dtype=np.int64).reshape(-1, 2)
    ends = ends[ends[:, 0] != ends[:, 1]]
    both = np.concatenate([ends, ends[:, ::-1]]).T
    adjacency = sp.csr_array((np.ones(both.shape[1]), (both[0], both[1])), shape=(nodes, nodes))
    adjacency.data[:] = 1.0  # written twice counts once
    most = min(rank, nodes - 2)
    if not len(ends) or most < 1:
        return np.zeros((nodes, 1), dtype=np.float32), np.zeros(1, dtype=np.float32)
    start = np.random.default_rng(0).standard_normal(nodes)
    values, vectors = eigsh(adjacency, k=most, which="LM", v0=start)
    return vectors.astype(np.float32), values.astype(np.float32)


def mixed(adjacency: Tensor | LowRank, x: Tensor) -> Tensor:
    """Return the product of a normalised adjacency with an (N, C) tensor."""
    return adjacency.mm(x) if isinstance(adjacency, LowRank) else torch.sparse.mm(adjacency, x)


class Vgae(nn.Module):
    """Two layers of graph convolution give every node a place; near places are linked.

    ``H = relu(S X W0)``, ``mu = S H W1``, ``log sigma = S H W2``, S the normalised adjacency and X
    the features; a pair's logit is ``z_i z_j``, z drawn around mu in training and mu itself
    afterwards. Beside the logit each pair has its nodes' mean divergence from a standard normal,
    divided by the number of nodes, as the loss weighs it. No (N, N) tensor is made.

    Kipf and Welling, "Variational Graph Auto-Encoders", NIPS workshop 2016; pairs of a batch in
    place of all pairs, so that a graph of any size may be learnt. In training the absent pairs of
    a batch are drawn anew among the client's nodes in every step: the same ones again and again
    are learnt by heart. The latent layer is ``first``.

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
    fresh : bool
        Whether absent pairs are drawn anew in every step, in place of those of the rows.
    """

    takes_rank = True
    """Whether `take_graph` may be asked for a low-rank adjacency."""

    latent_layer = "first"

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        features: int = 0,
        hidden: int = 32,
        latent: int = 16,
        fresh: bool = True,
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
        self.fresh = fresh
        self.graph: tuple[Tensor, Tensor | LowRank] | None = None
        self._among: tuple[Tensor, Tensor] | None = None

    def take_graph(self, features: Tensor, edges: Tensor, *, rank: int = 0) -> None:
        """Compute with this graph from now on.

        Parameters
        ----------
        features : Tensor
            (N, F) sparse.
        edges : Tensor
            (M, 2) int64.
        rank : int
            Above 0: rank of the adjacency that is computed with, see `low_rank`.
        """
        device, nodes = self.first.weight.device, int(features.shape[0])
        own = edges.to(device)
        adjacency = low_rank(own, nodes, rank) if rank else normalised(own, nodes)
        self.graph, self._among = (features.to(device), adjacency), None

    def draw_absent(self, nodes: Tensor, links: Tensor) -> None:
        """Draw absent pairs among these nodes from now on, where the network is trained.

        Parameters
        ----------
        nodes : Tensor
            (n,) a client's nodes.
        links : Tensor
            (M, 2) its links, which are no absent pairs.
        """
        if self.fresh and self.graph is not None and len(nodes) > 1:
            self._among = nodes, self._codes(links).sort().values

    def _codes(self, pairs: Tensor) -> Tensor:
        assert self.graph is not None
        least, most = pairs.amin(dim=1), pairs.amax(dim=1)
        return least * self.graph[0].shape[0] + most

    def _drawn_anew(self, x: Tensor) -> Tensor:
        """Return pairs, those that are no links drawn anew; what hits a link or a loop stays."""
        assert self._among is not None
        nodes, links = self._among
        kept = torch.isin(self._codes(x), links)
        drawn = nodes[torch.randint(len(nodes), x.shape, device=x.device)]
        hit = torch.isin(self._codes(drawn), links) | (drawn[:, 0] == drawn[:, 1])
        return torch.where((kept | hit)[:, None], x, drawn)

    def encode(self) -> tuple[Tensor, Tensor]:
        """Return the (N, latent) mean places and log deviations of the nodes."""
        assert self.graph is not None
        features, adjacency = self.graph
        first = torch.sparse.mm(features, self.first.weight.T)
        hidden = mixed(adjacency, first).relu()
        places = mixed(adjacency, self.places(hidden))
        return places, mixed(adjacency, self.spread(hidden)).clamp(max=_WIDEST)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 2): logits of (B, 2) pairs of nodes, and their part of the divergence."""
        if self.graph is None:  # tried out before anybody has given it a graph
            count = int(x.max()) + 1
            ones = torch.ones(count, self.first.in_features, device=x.device)
            self.take_graph(ones.to_sparse(), torch.empty(0, 2, dtype=torch.int64))
            found = self.forward(x)
            self.graph = None
            return found
        if self.training and self._among is not None:
            x = self._drawn_anew(x)
        mean, log = self.encode()
        z = mean + torch.randn_like(log) * log.exp() if self.training else mean
        each = 0.5 * (mean.square() + (2.0 * log).exp() - 1.0 - 2.0 * log).sum(dim=1)
        one, other = x[:, 0], x[:, 1]
        logits = (z[one] * z[other]).sum(dim=1)
        return torch.stack([logits, (each[one] + each[other]) / (2.0 * len(mean))], dim=1)
