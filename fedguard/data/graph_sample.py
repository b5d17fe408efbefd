"""A small made-up graph, which needs no file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fedguard.data.dataset import Dataset
from fedguard.data.graphs import (
    CLEANINGS,
    GRAPH_DEFAULTS,
    WholeGraph,
    as_dataset,
    communities,
    each_once,
    sparse_features,
)
from fedguard.errors import check_choice, check_number

_KINDS = 8
_WORDS = 15


class GraphSample:
    """A made-up graph for trying things out, the same in every run.

    Nodes belong to 8 kinds. Each has 15 words of its kind's vocabulary with probability 0.3 each,
    and any other word with probability 0.02. Two nodes of one kind are linked with probability
    0.15, of two kinds with 0.003.

    Parameters
    ----------
    nodes : int
        How many, at least 40.
    communities : int
        Clients that Louvain's communities are gathered into, at least 1.
    test_share : float
        Share of the edges for the test, above 0 to below 0.9.
    absent : int
        Absent pairs per training edge, at least 1; few are learnt by heart.
    split : int
        Seed of the split.
    clean : str
        See `fedguard.data.planetoid.Cora`.
    """

    defaults: ClassVar[Mapping[str, Any]] = GRAPH_DEFAULTS

    def __init__(
        self,
        *,
        nodes: int = 240,
        communities: int = 5,
        test_share: float = 0.1,
        absent: int = 5,
        split: int = 0,
        clean: str = "none",
    ) -> None:
        check_number("nodes", nodes, at_least=40)
        check_number("communities", communities, at_least=1)
        check_number("test_share", test_share, above=0.0, below=0.9)
        check_number("absent", absent, at_least=1)
        check_number("split", split, at_least=0)
        check_choice("clean", clean, CLEANINGS)
        self.nodes, self.communities = nodes, communities
        self.test_share, self.absent = test_share, absent
        self.split, self.clean = split, clean

    def load(self, data_dir: Path | None) -> Dataset:
        """Return the graph's links; `data_dir` is not used."""
        draw = np.random.default_rng(20)
        kind = np.arange(self.nodes) % _KINDS
        own = np.repeat(np.arange(_KINDS), _WORDS)[None, :] == kind[:, None]
        words = draw.random(own.shape) < np.where(own, 0.3, 0.02)
        alike = kind[:, None] == kind[None, :]
        linked = draw.random(alike.shape) < np.where(alike, 0.15, 0.003)
        edges = each_once(np.argwhere(np.triu(linked, 1)).astype(np.int64))
        whole = WholeGraph(
            features=sparse_features(words),
            edges=edges,
            ids=[str(number) for number in range(self.nodes)],
            groups={"community": communities(edges, self.nodes, self.communities)},
            notes=("a made-up graph from a seeded generator",),
        )
        return as_dataset(
            "graph-sample",
            whole,
            test_share=self.test_share,
            absent=self.absent,
            split=self.split,
            clean=self.clean,
        )
