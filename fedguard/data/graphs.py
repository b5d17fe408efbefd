"""Graphs with node features: their links as rows, and what the task knows of them beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedguard.data.dataset import Dataset
from fedguard.errors import ConfigurationError, check_choice, check_number

GRAPH_DEFAULTS: Mapping[str, Any] = {
    "model": "vgae",
    "partition": {"name": "natural", "by": "community"},
    "training": "adam",
    "lr": 0.01,
    "local_epochs": 10,
    "batch_size": 100_000,
    "server_samples": 0,
    "strategy": "fedavg",
    "clients": 5,
    "malicious": 0.2,
    "rounds": 15,
}
"""What a run on a graph does where nothing is said."""

CLEANINGS = ("none", "jaccard", "svd")
"""What clients do to their graphs before they train; see `Graph.clean`."""


class GraphSplit:
    """Frame of the data sets that are one graph: how its links are split, and among whom.

    Parameters
    ----------
    communities : int
        Clients that Louvain's communities are gathered into, at least 1.
    test_share : float
        Share of the edges for the test, above 0 to below 0.9.
    absent : int
        Absent pairs per training edge, at least 1.
    split : int
        Seed of the split.
    clean : str
        What clients do to the graph that they compute with: ``"jaccard"`` leaves edges between
        nodes without a shared feature out of it, ``"svd"`` puts a low-rank one in its place,
        ``"none"`` nothing.
    rank : int
        Rank of ``clean: svd``, at least 1.
    """

    defaults: ClassVar[Mapping[str, Any]] = GRAPH_DEFAULTS

    def __init__(
        self,
        *,
        communities: int = 5,
        test_share: float = 0.1,
        absent: int = 20,
        split: int = 0,
        clean: str = "none",
        rank: int = 50,
    ) -> None:
        check_number("communities", communities, at_least=1)
        check_number("test_share", test_share, above=0.0, below=0.9)
        check_number("absent", absent, at_least=1)
        check_number("split", split, at_least=0)
        check_choice("clean", clean, CLEANINGS)
        check_number("rank", rank, at_least=1)
        self.communities, self.test_share, self.absent = communities, test_share, absent
        self.split, self.clean, self.rank = split, clean, rank

    def split_up(self, name: str, whole: WholeGraph) -> Dataset:
        """Return a graph's links as a data set; see `as_dataset`."""
        return as_dataset(
            name,
            whole,
            test_share=self.test_share,
            absent=self.absent,
            split=self.split,
            clean=self.clean,
            rank=self.rank,
        )


@dataclass(frozen=True)
class Graph:
    """What a graph's data set knows beside its rows.

    Attributes
    ----------
    features : Tensor
        (N, F) sparse COO float32, coalesced: the nodes' features.
    edges : Tensor
        (E, 2) int64 training edges of the whole graph, smaller node first; each once.
    ids : tuple of str
        (N,) the nodes' names.
    ratio : float
        Absent pairs per link among the training rows; a task weighs links by it.
    clean : str
        ``"jaccard"``: clients leave edges out of their graph whose ends share no feature that is
        not 0; ``"svd"``: they compute with the adjacency of rank `rank` that is nearest to their
        own; ``"none"``: neither.
    rank : int
        Rank of the adjacency that clients compute with; only ``"svd"`` reads it.
    """

    features: Tensor
    edges: Tensor
    ids: tuple[str, ...]
    ratio: float = 1.0
    clean: str = "none"
    rank: int = 50

    @property
    def nodes(self) -> int:
        """Number of nodes N."""
        return int(self.features.shape[0])

    @property
    def width(self) -> int:
        """Number of features F."""
        return int(self.features.shape[1])

    @property
    def for_models(self) -> dict[str, int]:
        """Arguments of models that the graph decides."""
        return {"features": self.width}

    def cleaned(self, edges: Tensor) -> Tensor:
        """Return the (M, 2) edges that are kept by `clean`."""
        if self.clean != "jaccard" or not len(edges):
            return edges
        return edges[shared_features(self.features, edges) > 0]


def shared_features(features: Tensor, edges: Tensor) -> Tensor:
    """Return how many features other than 0 the ends of (M, 2) edges share, (M,) float32."""
    import scipy.sparse as sp

    places, values = features.indices().cpu().numpy(), features.values().cpu().numpy()
    shape = (features.shape[0], features.shape[1])
    own = sp.csr_array(((values != 0).astype(np.float32), (places[0], places[1])), shape=shape)
    ends = edges.cpu().numpy()
    shared = own[ends[:, 0]].multiply(own[ends[:, 1]]).sum(axis=1)
    return torch.from_numpy(np.asarray(shared, dtype=np.float32).reshape(-1)).to(edges.device)


def sparse_features(rows: NDArray[Any]) -> Tensor:
    """Return (N, F) dense numbers as a coalesced sparse tensor."""
    found: Tensor = torch.from_numpy(rows.astype(np.float32)).to_sparse().coalesce()
    return found


def each_once(edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return undirected edges with the smaller node first, each once, without loops."""
    ordered = np.sort(edges, axis=1)
    return np.unique(ordered[ordered[:, 0] != ordered[:, 1]], axis=0)


def communities(edges: NDArray[np.int64], nodes: int, parts: int) -> NDArray[np.str_]:
    """Return each node's part: Louvain's communities, the largest first into the emptiest part.

    Blondel, Guillaume, Lambiotte and Lefebvre, "Fast Unfolding of Communities in Large Networks",
    Journal of Statistical Mechanics 2008, by networkx, with a fixed seed.

    Raises
    ------
    ConfigurationError
        On ``dataset.communities`` if there are fewer communities than parts.
    """
    if parts == 1:
        return np.array(["part 0"] * nodes, dtype=np.str_)
    import networkx

    graph = networkx.Graph()
    graph.add_nodes_from(range(nodes))
    graph.add_edges_from(edges.tolist())
    found = networkx.community.louvain_communities(graph, seed=0)
    if len(found) < parts:
        allowed = f"1 to {len(found)}, the communities that the graph has"
        raise ConfigurationError("dataset.communities", parts, allowed)
    sizes, part = [0] * parts, np.zeros(nodes, dtype=np.int64)
    for members in sorted(found, key=lambda own: (-len(own), min(own))):
        emptiest = sizes.index(min(sizes))
        part[list(members)] = emptiest
        sizes[emptiest] += len(members)
    width = len(str(parts - 1))
    return np.array([f"part {number:0{width}d}" for number in part], dtype=np.str_)


def absent_pairs(
    count: int,
    nodes: NDArray[np.int64],
    taken: NDArray[np.int64],
    size: int,
    draw: np.random.Generator,
) -> NDArray[np.int64]:
    """Return up to `count` different pairs of `nodes` whose codes are not in `taken`.

    A pair (i, j), i < j, has the code ``i size + j``. Fewer come back where a small graph has
    fewer absent pairs to be found.
    """
    found = np.empty(0, dtype=np.int64)
    for _ in range(40):
        if len(found) >= count or len(nodes) < 2:
            break
        ends = np.sort(draw.choice(nodes, size=(2 * (count - len(found)) + 8, 2)), axis=1)
        drawn = pair_codes(ends[ends[:, 0] != ends[:, 1]], size)
        drawn = drawn[~np.isin(drawn, taken) & ~np.isin(drawn, found)]
        first = np.unique(drawn, return_index=True)[1]
        found = np.concatenate([found, drawn[np.sort(first)][: count - len(found)]])
    return np.stack([found // size, found % size], axis=1)


def pair_codes(pairs: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return one number per pair of nodes, ``i size + j``."""
    codes: NDArray[np.int64] = pairs[:, 0] * size + pairs[:, 1]
    return codes


@dataclass(frozen=True)
class WholeGraph:
    """A graph before its links are split: features, edges, names and the nodes' groups."""

    features: Tensor
    edges: NDArray[np.int64]
    ids: Sequence[str]
    groups: Mapping[str, NDArray[np.str_]]
    notes: tuple[str, ...] = ()


def as_dataset(
    name: str,
    whole: WholeGraph,
    *,
    test_share: float,
    absent: int,
    split: int,
    clean: str,
    rank: int = 50,
) -> Dataset:
    """Return a graph's links as a data set: rows are pairs of nodes, 1 for a link, 0 for none.

    1. A share of the edges is the test set, with as many absent pairs of the whole graph.
    2. The other edges within one group, and `absent` times as many absent pairs of that group
       (fewer where it is too small), are the training rows; edges between groups are nobody's
       rows, but the server's graph has them.

    Parameters
    ----------
    name : str
        Name of the data set.
    whole : WholeGraph
        The graph; rows are grouped by the first of its groups.
    test_share : float
        Share of the edges for the test.
    absent : int
        Absent pairs per training edge.
    split : int
        Seed of the split and of the absent pairs.
    clean, rank : str, int
        See `Graph.clean`.

    Raises
    ------
    ConfigurationError
        On ``dataset.communities`` if a group holds no link.
    """
    draw = np.random.default_rng([split, 17])
    edges, nodes = whole.edges, int(whole.features.shape[0])
    kind, member = next(iter(whole.groups.items()))
    names, number = np.unique(member, return_inverse=True)
    order = draw.permutation(len(edges))
    tests = max(1, round(test_share * len(edges)))
    test, train = edges[order[:tests]], edges[np.sort(order[tests:])]
    taken = pair_codes(edges, nodes)
    test_absent = absent_pairs(tests, np.arange(nodes), taken, nodes, draw)
    taken = np.concatenate([taken, pair_codes(test_absent, nodes)])
    rows, labels, groups = [], [], []
    for group in range(len(names)):
        own = np.flatnonzero(number == group)
        inner = train[(number[train] == group).all(axis=1)]
        if not len(inner):
            told = f"fewer or other groups: {kind} {names[group]} holds no link to train on"
            raise ConfigurationError("dataset.communities", len(names), told)
        apart = absent_pairs(absent * len(inner), own, taken, nodes, draw)
        rows += [inner, apart]
        labels += [np.ones(len(inner)), np.zeros(len(apart))]
        groups += [np.full(len(inner) + len(apart), group)]
    links = sum(int(part.sum()) for part in labels)
    ratio = (sum(len(part) for part in labels) - links) / links
    between = len(train) - links
    notes = (*whole.notes, f"{between} of {len(train)} training edges lie between clients")
    return Dataset(
        name=name,
        x_train=torch.from_numpy(np.concatenate(rows)),
        y_train=torch.from_numpy(np.concatenate(labels).astype(np.int64)),
        x_test=torch.from_numpy(np.concatenate([test, test_absent])),
        y_test=torch.tensor([1] * len(test) + [0] * len(test_absent)),
        num_classes=2,
        class_names=("no link", "link"),
        mean=(0.0,),
        std=(1.0,),
        notes=notes,
        task="link-prediction",
        groups={kind: torch.from_numpy(np.concatenate(groups).astype(np.int64))},
        group_names={kind: tuple(str(one) for one in names)},
        facts=Graph(whole.features, torch.from_numpy(train), tuple(whole.ids), ratio, clean, rank),
    )
