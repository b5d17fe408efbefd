"""A small made-up graph, which needs no file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedguard.data.dataset import Dataset
from fedguard.data.graphs import GraphSplit, WholeGraph, communities, each_once, sparse_features
from fedguard.errors import check_number

_KINDS = 8
_WORDS = 15
_WITHIN, _BETWEEN = 0.15, 0.003
_EVERY_PAIR = 2000
"""Most nodes for which every pair is drawn."""


class GraphSample(GraphSplit):
    """A made-up graph for trying things out, the same in every run.

    Nodes belong to 8 kinds. Each has 15 words of its kind's vocabulary with probability 0.3 each,
    and any other word with probability 0.02. Two nodes of one kind are linked with probability
    0.15, of two kinds with 0.003. With more than 2,000 nodes, no matrix of all pairs is made and a
    node has as many links on average as with the default: 4.5 within its kind, 0.6 to others.

    Parameters
    ----------
    nodes : int
        How many, at least 40.
    absent : int
        Absent pairs per training edge, at least 1.
    **split : Any
        See `GraphSplit`.
    """

    def __init__(self, *, nodes: int = 240, absent: int = 5, **split: Any) -> None:
        super().__init__(absent=absent, **split)
        check_number("nodes", nodes, at_least=40)
        self.nodes = nodes

    def load(self, data_dir: Path | None) -> Dataset:
        """Return the graph's links; `data_dir` is not used."""
        draw = np.random.default_rng(20)
        kind = np.arange(self.nodes) % _KINDS
        own = np.repeat(np.arange(_KINDS), _WORDS)[None, :] == kind[:, None]
        words = draw.random(own.shape) < np.where(own, 0.3, 0.02)
        edges = _every_pair(kind, draw) if self.nodes <= _EVERY_PAIR else _some_pairs(kind, draw)
        whole = WholeGraph(
            features=sparse_features(words),
            edges=edges,
            ids=[str(number) for number in range(self.nodes)],
            groups={"community": communities(edges, self.nodes, self.communities)},
            notes=("a made-up graph from a seeded generator",),
        )
        return self.split_up("graph-sample", whole)


def _every_pair(kind: NDArray[np.int64], draw: np.random.Generator) -> NDArray[np.int64]:
    """Return edges, each pair of nodes drawn by itself."""
    alike = kind[:, None] == kind[None, :]
    linked = draw.random(alike.shape) < np.where(alike, _WITHIN, _BETWEEN)
    return each_once(np.argwhere(np.triu(linked, 1)).astype(np.int64))


def _some_pairs(kind: NDArray[np.int64], draw: np.random.Generator) -> NDArray[np.int64]:
    """Return edges, as many as the small graph has per node, with both ends drawn."""
    nodes, within, between = len(kind), _WITHIN * 240 / _KINDS, _BETWEEN * 240 * (1 - 1 / _KINDS)
    ends = draw.integers(nodes, size=(round(nodes * (within + between) / 2.0), 2))
    alike = draw.random(len(ends)) < within / (within + between)
    # Nodes of a kind stand at every 8th place: the other end is moved to the same kind.
    other = ends[:, 1] - (ends[:, 1] - ends[:, 0]) % _KINDS
    ends[:, 1] = np.where(alike, np.where(other < 0, other + _KINDS, other), ends[:, 1])
    return each_once(ends.astype(np.int64))
