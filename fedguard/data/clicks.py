"""Any log of who took which item when: a table with user, item and time columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedguard.data.dataset import Dataset
from fedguard.data.histories import Sessions, as_dataset
from fedguard.data.table_files import is_table, read_table
from fedguard.errors import ConfigurationError, check_number, nearest

RECOMMENDER_DEFAULTS: Mapping[str, Any] = {
    "model": "sasrec",
    "partition": {"name": "natural", "by": "shop"},
    "training": "adam",
    "lr": 3e-3,
    "local_epochs": 3,
    "batch_size": 16,
    "server_samples": 0,
    "strategy": "fedavg",
    "malicious": 0.05,
    "rounds": 10,
}
"""What a run on histories of items does where nothing is said."""

_SHOWN = 8


class Clicks:
    """Sequential recommendation on any table of clicks, ratings or purchases.

    A row of the file is one event. Users and items with few events are left out (see `core`), a
    user's events are put in order of time (those of one time in the order of the file), an item
    that a user meets again counts once, and the last item of every user is its test. The partition
    `natural` divides by ``shop`` (the default: several users are one client) or by ``user``.

    Parameters
    ----------
    user, item, time : str
        Columns. Times are numbers, or dates that pandas reads.
    path : Path, optional
        The file, absolute or relative to the data folder; the one table in it if left out.
    shop : str, optional
        Column that says which shop a user's events come from; the first event decides. Users are
        dealt to `shops` shops at random if left out.
    shops : int
        Number of shops that users are dealt to, at least 1.
    title : str, optional
        Column with the items' titles.
    length : int
        Items of a history that a model sees, at least 3.
    core : int
        Fewest events of a user and of an item, at least 3: what has fewer is left out, again and
        again until nothing has ("k-core").
    skip_bad : bool
        Whether events without user, item or readable time are left out, with a note; the first
        one is an error otherwise.
    """

    defaults: ClassVar[Mapping[str, Any]] = RECOMMENDER_DEFAULTS
    name: ClassVar[str] = "clicks"

    def __init__(
        self,
        *,
        user: str = "user",
        item: str = "item",
        time: str = "time",
        path: Path | None = None,
        shop: str | None = None,
        shops: int = 20,
        title: str | None = None,
        length: int = 50,
        core: int = 5,
        skip_bad: bool = False,
    ) -> None:
        check_number("length", length, at_least=3)
        check_number("core", core, at_least=3)
        check_number("shops", shops, at_least=1)
        self.user, self.item, self.time = user, item, time
        self.path, self.shop, self.shops = path, shop, shops
        self.title, self.length, self.core = title, length, core
        self.skip_bad = skip_bad

    def load(self, data_dir: Path | None) -> Dataset:
        """Return the histories, one row per user.

        Raises
        ------
        ConfigurationError
            On ``data_dir`` or ``dataset.path`` if there is no table to read, on the argument that
            names a column if there is none of that name, on ``dataset.skip_bad`` for an event
            that cannot be read, on ``dataset.core`` if nothing is left.
        """
        events, notes = self._events(read_table(self._file(data_dir)).frame)
        return as_dataset(self.name, self._sessions(events, notes), self.length, self.shops)

    def titles(self, data_dir: Path | None) -> Mapping[str, str]:
        """Return the items' titles by id, where they lie in a file of their own."""
        return {}

    def _file(self, data_dir: Path | None) -> Path:
        allowed = "a folder with one table of events (CSV or Parquet), or dataset.path"
        if self.path is not None:
            given = Path(self.path)
            tries = [given] if data_dir is None else [data_dir / given, given]
            found = [path for path in tries if path.is_file()]
            if not found:
                raise ConfigurationError("dataset.path", str(given), "a file that is there")
            return found[0]
        if data_dir is None or not data_dir.is_dir():
            raise ConfigurationError(
                "data_dir", None if data_dir is None else str(data_dir), allowed
            )
        tables = sorted(path for path in data_dir.iterdir() if path.is_file() and is_table(path))
        if len(tables) != 1:
            told = ", ".join(path.name for path in tables[:_SHOWN]) or "no table"
            raise ConfigurationError("data_dir", str(data_dir), f"{allowed}; it holds {told}")
        return tables[0]

    def _events(self, frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
        """Return the good events, with columns user, item, time, shop and title as they are."""
        wanted = {"user": self.user, "item": self.item, "time": self.time}
        wanted |= {k: v for k, v in (("shop", self.shop), ("title", self.title)) if v is not None}
        known = [str(name) for name in frame.columns]
        for argument, column in wanted.items():
            if column not in known:
                allowed = nearest(column, known) + "a column: " + ", ".join(known[:_SHOWN])
                raise ConfigurationError(f"dataset.{argument}", column, allowed)
        found = pd.DataFrame({name: frame[column] for name, column in wanted.items()})
        times = _seconds(found["time"])
        texts = found[["user", "item"]].apply(lambda c: c.astype("string").fillna("").str.strip())
        bad = (texts == "").any(axis=1).to_numpy() | ~np.isfinite(times)
        notes = []
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            what = ", ".join(f"{n} {found[n].iloc[row]!r}" for n in ("user", "item", "time"))
            if not self.skip_bad:
                allowed = f"user, item and time in every row; row {row + 1} has {what}"
                raise ConfigurationError("dataset.skip_bad", False, f"true, or {allowed}")
            notes.append(f"{bad.sum()} of {len(bad)} events left out: no user, item or time")
        found["user"], found["item"], found["time"] = texts["user"], texts["item"], times
        return found[~bad], notes

    def _sessions(self, events: pd.DataFrame, notes: list[str]) -> Sessions:
        events = events.sort_values(["user", "time"], kind="stable")
        again = events.duplicated(["user", "item"])
        if again.any():
            notes.append(f"{again.sum()} events left out: the user met the item before")
        events = events[~again]
        kept = _core(events, self.core)
        if not len(kept):
            told = f"a smaller number: nobody has {self.core} events with items that are so common"
            raise ConfigurationError("dataset.core", self.core, told)
        users, items = np.unique(kept["user"]), np.unique(kept["item"])
        whole = f"{kept['user'].nunique()} users, {len(items)} items, {len(kept)} events kept"
        notes.append(f"{whole} of {len(events)} (core {self.core})")
        number = pd.Series(np.arange(1, len(items) + 1), index=items)
        own = {
            user: part["item"].map(number).to_numpy(np.int64) for user, part in kept.groupby("user")
        }
        groups: dict[str, NDArray[np.str_]] = {"user": users.astype(np.str_)}
        if self.shop is not None:
            first = kept.groupby("user")["shop"].first().astype("string").fillna("")
            groups["shop"] = first[users].to_numpy(np.str_)
        return Sessions(
            items=[own[user] for user in users],
            ids=("", *(str(item) for item in items)),
            titles=("none", *self._titles_of(kept, items)),
            groups=groups,
            notes=tuple(notes),
        )

    def _titles_of(self, kept: pd.DataFrame, items: NDArray[Any]) -> list[str]:
        named: Mapping[Any, str] = {}
        if self.title is not None:
            named = kept.groupby("item")["title"].first().astype("string").to_dict()
        return [str(named.get(item) or item) for item in items]


def _core(events: pd.DataFrame, least: int) -> pd.DataFrame:
    """Return the events of users and items that have at least so many, all others gone."""
    while True:
        users, items = (events.groupby(n)[n].transform("size") for n in ("user", "item"))
        good = (users >= least) & (items >= least)
        if bool(good.all()):
            return events
        events = events[good]


def _seconds(column: pd.Series[Any]) -> NDArray[np.float64]:
    """Return times as numbers: as they are, or seconds of dates; NaN for what is neither."""
    numbers = pd.to_numeric(column, errors="coerce")
    if bool(numbers.notna().any()) and float(numbers.isna().mean()) <= 0.5:
        return numbers.to_numpy(np.float64)
    dates = pd.to_datetime(column, errors="coerce", utc=True, format="mixed")
    found = dates.astype("datetime64[ns, UTC]").astype("int64").to_numpy(np.float64) / 1e9
    return np.where(dates.isna().to_numpy(), np.nan, found)
