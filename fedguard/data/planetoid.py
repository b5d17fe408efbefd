"""Cora and Citeseer: papers, their words, and who cites whom."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from fedguard.data.dataset import Dataset
from fedguard.data.graphs import (
    GraphSplit,
    WholeGraph,
    communities,
    each_once,
)
from fedguard.errors import ConfigurationError

_KEYS = ("x_data", "x_indices", "x_indptr", "x_shape", "edges")


class _Planetoid(GraphSplit):
    """Frame of the two: one NumPy file with features as a sparse matrix and a list of edges."""

    name: ClassVar[str]

    def load(self, data_dir: Path | None) -> Dataset:
        """Return the graph's links.

        Raises
        ------
        ConfigurationError
            On ``data_dir`` if the file is missing or holds something else.
        """
        allowed = f"a folder that holds {self.name}.npz with {', '.join(_KEYS)}"
        path = None if data_dir is None else data_dir / f"{self.name}.npz"
        told = None if data_dir is None else str(data_dir)
        if path is None or not path.is_file():
            raise ConfigurationError("data_dir", told, allowed)
        try:
            with np.load(path, allow_pickle=False) as file:
                held = {key: file[key] for key in _KEYS}
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:100]
            raise ConfigurationError("data_dir", told, f"{allowed} ({reason})") from error
        rows = np.repeat(np.arange(len(held["x_indptr"]) - 1), np.diff(held["x_indptr"]))
        places = torch.from_numpy(np.stack([rows, held["x_indices"]]).astype(np.int64))
        shape = tuple(int(size) for size in held["x_shape"])
        values = torch.from_numpy(held["x_data"].astype(np.float32))
        features = torch.sparse_coo_tensor(places, values, shape).coalesce()
        edges = each_once(held["edges"].astype(np.int64))
        part = communities(edges, shape[0], self.communities)
        ids = [str(number) for number in range(shape[0])]
        whole = WholeGraph(features, edges, ids, {"community": part})
        return self.split_up(self.name, whole)


class Cora(_Planetoid):
    """Links between 2,708 papers (5,278 citations, 1,433 words), parts of the graph as clients.

    Sen et al., "Collective Classification in Network Data", AI Magazine 2008. Features are the
    raw binary words. See `fedguard.data.graphs.as_dataset` for the split, and `GraphSplit` for
    the arguments.
    """

    name: ClassVar[str] = "cora"


class Citeseer(_Planetoid):
    """Links between 3,327 papers (4,552 citations, 3,703 words); for all else see `Cora`."""

    name: ClassVar[str] = "citeseer"
