"""MovieLens: who rated which film when."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedguard.data.clicks import Clicks
from fedguard.data.dataset import Dataset
from fedguard.data.table_files import read_table
from fedguard.errors import ConfigurationError


class MovieLens(Clicks):
    """Sequential recommendation on MovieLens: ``ratings.csv`` and ``movies.csv`` of a release.

    A rating, whatever its height, is an event; films rated by few and users who rated few are
    left out. With "latest-small" and the default core, 609 users and 2,269 films are left.

    Harper and Konstan, "The MovieLens Datasets: History and Context", ACM Transactions on
    Interactive Intelligent Systems 2015. The files are the user's own to get; their licence does
    not let others hand them on.

    Parameters
    ----------
    shops : int
        Number of shops that users are dealt to, at least 1.
    length : int
        Films of a history that a model sees, at least 3.
    core : int
        Fewest ratings of a user and of a film; see `Clicks`.
    """

    name: ClassVar[str] = "movielens"

    def __init__(self, *, shops: int = 20, length: int = 50, core: int = 10) -> None:
        super().__init__(
            user="userId",
            item="movieId",
            time="timestamp",
            path=Path("ratings.csv"),
            shops=shops,
            length=length,
            core=core,
        )

    def load(self, data_dir: Path | None) -> Dataset:
        """Return the histories, one row per user; see `Clicks.load`."""
        allowed = "a folder that holds ratings.csv and movies.csv of a MovieLens release"
        given = None if data_dir is None else str(data_dir)
        if data_dir is None or not (data_dir / "ratings.csv").is_file():
            raise ConfigurationError("data_dir", given, allowed)
        self._names = _names(data_dir / "movies.csv")
        return super().load(data_dir)

    def _titles_of(self, kept: pd.DataFrame, items: NDArray[np.str_]) -> list[str]:
        return [self._names.get(str(item), str(item)) for item in items]


def _names(path: Path) -> Mapping[str, str]:
    """Return the films' titles by id; none where the file is missing."""
    if not path.is_file():
        return {}
    frame: Any = read_table(path).frame
    if not {"movieId", "title"} <= set(frame.columns):
        return {}
    return dict(zip(frame["movieId"].astype(str), frame["title"].astype(str), strict=True))
