"""Any graph: a table of edges and a table of nodes with their features."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedguard.data.dataset import Dataset
from fedguard.data.graphs import (
    GRAPH_DEFAULTS,
    GraphSplit,
    WholeGraph,
    communities,
    each_once,
    sparse_features,
)
from fedguard.data.table_files import read_table
from fedguard.errors import ConfigurationError, nearest


class EdgeList(GraphSplit):
    """Link prediction on a graph of one's own: who is linked with whom, and what is known of each.

    The table of edges has the two ends in two columns; direction does not count, an edge that is
    written twice counts once, a loop not at all. The table of nodes has a column of names and
    numbers in all other columns, which are the features. Clients are parts of the graph: what a
    column of the nodes says, or Louvain's communities.

    Parameters
    ----------
    edges, nodes : Path
        The two tables, absolute or relative to the data folder.
    source, target : str
        Columns of the edges' ends.
    node : str
        Column of the nodes' names.
    group : str, optional
        Column of the nodes that says which client each belongs to; communities if left out.
    **split : Any
        See `GraphSplit`.
    """

    defaults: ClassVar[Mapping[str, Any]] = {
        **GRAPH_DEFAULTS,
        "partition": {"name": "natural"},
    }

    def __init__(
        self,
        *,
        edges: Path = Path("edges.csv"),
        nodes: Path = Path("nodes.csv"),
        source: str = "source",
        target: str = "target",
        node: str = "node",
        group: str | None = None,
        **split: Any,
    ) -> None:
        super().__init__(**split)
        self.edges, self.nodes = Path(edges), Path(nodes)
        self.source, self.target, self.node, self.group = source, target, node, group

    def load(self, data_dir: Path | None) -> Dataset:
        """Return the graph's links.

        Raises
        ------
        ConfigurationError
            On ``data_dir`` if a table is missing, on the argument that names a column if there is
            none of that name, on ``dataset.nodes`` or ``dataset.edges`` for the first row that
            cannot be meant.
        """
        table = _read(data_dir, self.nodes, "nodes")
        names, features = self._features(table)
        number = {name: place for place, name in enumerate(names)}
        edges = self._edges(_read(data_dir, self.edges, "edges"), number)
        if self.group is not None:
            groups = {self.group: _texts(table[self.group]).to_numpy(np.str_)}
        else:
            groups = {"community": communities(edges, len(names), self.communities)}
        whole = WholeGraph(sparse_features(features), edges, names, groups)
        return self.split_up("edge-list", whole)

    def _features(self, table: pd.DataFrame) -> tuple[list[str], NDArray[np.float64]]:
        for argument, column in (("node", self.node), ("group", self.group)):
            if column is not None:
                _check_column(table, argument, column)
        names = _texts(table[self.node])
        twice = names[(names == "") | names.duplicated()]
        if len(twice):
            told = f"a table with a name of its own in every row; row {int(twice.index[0]) + 1} has"
            raise ConfigurationError("dataset.nodes", str(self.nodes), f"{told} {twice.iloc[0]!r}")
        own = [column for column in table.columns if column not in (self.node, self.group)]
        if not own:
            allowed = f"a table with features: columns beside {self.node!r}"
            raise ConfigurationError("dataset.nodes", str(self.nodes), allowed)
        numbers = table[own].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
        bad = np.argwhere(~np.isfinite(numbers) | (np.abs(numbers) > 1e6))
        if len(bad):
            row, place = (int(one) for one in bad[0])
            told = f"numbers up to 1e6 as features; row {row + 1} has {own[place]!r} "
            raise ConfigurationError(
                "dataset.nodes", str(self.nodes), f"{told}{table[own[place]].iloc[row]!r}"
            )
        return names.tolist(), numbers

    def _edges(self, table: pd.DataFrame, number: Mapping[str, int]) -> NDArray[np.int64]:
        found = []
        for argument, column in (("source", self.source), ("target", self.target)):
            _check_column(table, argument, column)
            ends = _texts(table[column])
            places = ends.map(number)
            if places.isna().any():
                row = int(np.flatnonzero(places.isna())[0])
                told = f"ends that the nodes' table names; row {row + 1} has {ends.iloc[row]!r}"
                raise ConfigurationError("dataset.edges", str(self.edges), told)
            found.append(places.to_numpy(np.int64))
        edges = each_once(np.stack(found, axis=1))
        if len(edges) < 10:
            raise ConfigurationError("dataset.edges", str(self.edges), "at least 10 edges")
        return edges


def _read(data_dir: Path | None, name: Path, what: str) -> pd.DataFrame:
    tries = [name] if data_dir is None else [data_dir / name, name]
    found = next((path for path in tries if path.is_file()), None)
    if found is None:
        allowed = f"a folder that holds {name}, or dataset.{what}"
        raise ConfigurationError("data_dir", None if data_dir is None else str(data_dir), allowed)
    return read_table(found).frame


def _check_column(table: pd.DataFrame, argument: str, column: str) -> None:
    known = [str(name) for name in table.columns]
    if column not in known:
        allowed = nearest(column, known) + "a column: " + ", ".join(known[:8])
        raise ConfigurationError(f"dataset.{argument}", column, allowed)


def _texts(column: pd.Series[Any]) -> pd.Series[Any]:
    return column.astype("string").fillna("").str.strip().astype(str)
