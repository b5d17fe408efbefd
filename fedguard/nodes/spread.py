"""A round's updates on the Ray workers that made them: aggregated there, column by column.

Workers cut their rows into slabs of columns and hand each slab to the worker that keeps it (a
reduce-scatter). What rules do with blocks of columns is done where the slab lies: order statistics,
parts of inner products and of norms, weighted sums. Only those results travel to the server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from fedguard.clients.executors import Cohort, Trained
from fedguard.clients.training import ClientTrainer
from fedguard.errors import RunError
from fedguard.grids.update_room import Train
from fedguard.update_store import StoredRows, Task

T = TypeVar("T")

Parts = list[tuple[list[int], Sequence[Any]]]
"""Rows of each worker and, for every slab, where its part of them lies."""

SLABS = 16
"""Slabs of columns, whatever the number of workers: no sum over slabs depends on it."""

ATTEMPTS = 3
"""How often a round's updates are made again because a worker that kept some was lost."""


def cuts_of(columns: int) -> list[int]:
    """Return where the slabs of D columns begin and end."""
    slabs = min(SLABS, columns)
    return [columns * at // slabs for at in range(slabs + 1)]


class Shelf:
    """What a worker keeps of a round: slabs of columns of every client's update."""

    def __init__(self) -> None:
        self.slabs: dict[int, Tensor] = {}

    def keep(self, slab: int, rows: Sequence[Sequence[int]], *parts: np.ndarray) -> np.ndarray:
        """Put one slab together from the (k, width) parts of all workers.

        Returns
        -------
        ndarray
            (K,) largest absolute value of each row, NaN where it holds one.
        """
        whole = torch.empty(sum(map(len, rows)), parts[0].shape[1])
        for own, part in zip(rows, parts, strict=True):
            whole[list(own)] = torch.tensor(part)
        self.slabs[slab] = whole
        return peaks_of(whole).numpy()

    def put(self, slab: int, row: int, values: np.ndarray) -> None:
        """Write one row's part anew."""
        self.slabs[slab][row] = torch.tensor(values)

    def work(
        self,
        slab: int,
        rows: Sequence[int] | None,
        columns: tuple[int, int],
        function: Callable[[Tensor], Any],
    ) -> Any:
        """Return what a function makes of some rows and columns of a slab."""
        block = self.slabs[slab][:, slice(*columns)]
        return function(block if rows is None else block[list(rows)])

    def alive(self) -> bool:
        """Answer."""
        return True


def peaks_of(rows: Tensor) -> Tensor:
    """Return the (K,) largest absolute values of (K, D) rows, NaN where one holds NaN."""
    low, high = rows.aminmax(dim=1)
    return torch.maximum(-low, high)


class Workers(Protocol):
    """Ray actors that train clients and keep what these send; see `fedguard.nodes.ray`."""

    actors: list[Any]
    trainer: ClientTrainer

    def train_apart(self, cohort: Cohort, store: SpreadStore) -> Trained:
        """Train a cohort whose updates stay on the workers."""
        ...

    def replace_lost(self) -> None:
        """Start workers in place of those that do not live any more."""


class SpreadStore:
    """A round's (K, D) updates on Ray's workers; see `fedguard.update_store.Store`.

    A worker that is lost takes its slabs with it. Then the round's clients are trained again, which
    gives the same updates, rows that were written here are written again, and the rule goes on.

    Parameters
    ----------
    executor : Workers
        Who trains, and who keeps.
    columns : int
        Parameters D.
    """

    def __init__(self, executor: Workers, columns: int) -> None:
        self.executor, self.columns = executor, columns
        self.generation = 0
        self.peaks = torch.zeros(0)
        self.cuts = cuts_of(columns)
        self._written: dict[int, Tensor] = {}
        self._again: Callable[[], Trained] | None = None

    def __len__(self) -> int:
        return len(self.peaks)

    def fill(self, cohort: Cohort) -> tuple[StoredRows, Trained]:
        """Let the workers train a cohort and keep its updates; return rows and reports."""
        self.generation += 1
        memories = self.executor.trainer.memories
        before = {client: dict(kept) for client, kept in memories.items()}

        def train() -> Trained:
            memories.clear()
            memories.update({client: dict(kept) for client, kept in before.items()})
            self._written.clear()
            return self.executor.train_apart(cohort, self)

        def again() -> Trained:
            written = dict(self._written)
            self.executor.replace_lost()
            trained = train()
            for row, values in written.items():
                self.write(row, values[None])
            return trained

        self._again = again
        try:
            trained = train()
        except lost_errors():
            trained = self._lasting(again)
        return StoredRows(self, tuple(range(len(self))), 0, self.columns), trained

    def scatter(self, parts: Parts) -> None:
        """Let each slab be put together where it is to lie."""
        import ray

        rows = [own for own, _ in parts]
        answers = [
            self._keeper(slab).keep.remote(slab, rows, *(slabs[slab] for _, slabs in parts))
            for slab in range(len(self.cuts) - 1)
        ]
        self.peaks = torch.from_numpy(np.max(ray.get(answers), axis=0))

    def _keeper(self, slab: int) -> Any:
        return self.executor.actors[slab % len(self.executor.actors)]

    def write(self, first: int, values: Tensor) -> None:
        """Write (n, D) rows from row `first` on."""
        import ray

        self.peaks[first : first + len(values)] = peaks_of(values)
        for row, value in enumerate(values.detach().cpu(), start=first):
            self._written[row] = value.clone()

        def send() -> None:
            ray.get(
                [
                    self._keeper(slab).put.remote(slab, row, self._written[row][start:end].numpy())
                    for row in range(first, first + len(values))
                    for slab, (start, end) in enumerate(self._slabs())
                ]
            )

        self._lasting(send)

    def read(self, rows: Sequence[int], start: int, out: Tensor) -> None:
        """Read columns from `start` on of some rows into `out` (n, width)."""
        for at, block in self.blocks(rows, start, start + out.shape[1]):
            out[:, at] = block

    def blocks(self, rows: Sequence[int], first: int, last: int) -> Iterator[tuple[slice, Tensor]]:
        """Yield blocks of columns, read into memory, by their place from `first` on."""
        for slab, (start, end) in enumerate(self._slabs()):
            low, high = max(start, first), min(end, last)
            if low < high:
                found = self._work(rows, slab, low, high, _values)
                yield slice(low - first, high - first), torch.tensor(found)

    def each(self, rows: Sequence[int], first: int, last: int, task: Task[T]) -> Iterator[T]:
        """Yield what a function makes of each block of columns, where it lies."""
        pieces = [
            (slab, max(start, first), min(end, last))
            for slab, (start, end) in enumerate(self._slabs())
        ]
        asked = [
            (slab, low, high, task(slice(low - first, high - first)))
            for slab, low, high in pieces
            if low < high
        ]
        # All workers begin at once; the results are taken in order.
        waiting = [self._ask(rows, *one) for one in asked]
        for at, one in enumerate(asked):
            try:
                found = _got(waiting[at])
            except lost_errors():
                found = self._work(rows, *one)
                waiting[at + 1 :] = [self._ask(rows, *later) for later in asked[at + 1 :]]
            yield found

    def _slabs(self) -> list[tuple[int, int]]:
        return list(pairwise(self.cuts))

    def _ask(
        self, rows: Sequence[int], slab: int, low: int, high: int, function: Callable[[Any], Any]
    ) -> Any:
        start = self.cuts[slab]
        chosen = None if list(rows) == list(range(len(self))) else list(rows)
        keeper = self._keeper(slab)
        return keeper.work.remote(slab, chosen, (low - start, high - start), function)

    def _work(
        self, rows: Sequence[int], slab: int, low: int, high: int, function: Callable[[Any], Any]
    ) -> Any:
        ask = partial(self._ask, rows, slab, low, high, function)
        return self._lasting(lambda: _got(ask()))

    def _lasting(self, act: Callable[[], T]) -> T:
        """Return what `act` returns; where a worker is lost in it, make the updates again first."""
        for attempt in range(ATTEMPTS):
            try:
                if attempt > 0 and self._again is not None and act is not self._again:
                    self._again()
                return act()
            except lost_errors():
                continue
        raise RunError(f"Ray lost workers that kept updates {ATTEMPTS} times in one round")


def _values(block: Tensor) -> np.ndarray:
    return block.numpy()


def _got(answer: Any) -> Any:
    import ray

    return ray.get(answer)


def lost_errors() -> tuple[type[Exception], ...]:
    """Return what Ray raises where a worker, its node or what it kept is gone."""
    from ray import exceptions

    return exceptions.RayActorError, exceptions.ObjectLostError, exceptions.NodeDiedError


class SpreadRoom:
    """Keeps every round's updates on the workers; see `UpdateRoom`.

    Parameters
    ----------
    executor : Workers
        Who trains.
    """

    def __init__(self, executor: Workers) -> None:
        self._executor = executor
        self._store: SpreadStore | None = None

    def holds(self, rows: int, columns: int) -> bool:
        """Return False: nothing stays in this process."""
        return False

    def train(self, cohort: Cohort, columns: int, train: Train) -> tuple[StoredRows, Trained]:
        """Train a cohort where its updates are kept; see `UpdateRoom.train`."""
        if self._store is None or self._store.columns != columns:
            self._store = SpreadStore(self._executor, columns)
        return self._store.fill(cohort)

    def close(self) -> None:
        """Let go of what this process knows of the updates; the workers end with the executor."""
        self._store = None
