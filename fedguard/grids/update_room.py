"""`UpdateRoom`: where a round's matrix of updates lies, in memory or in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch

from fedguard.clients.executors import Cohort, Trained
from fedguard.update_store import StoredRows, StoredType, UpdateStore

Train = Callable[[Cohort, torch.Tensor], Trained]


class Room(Protocol):
    """Where the updates of a round lie that do not stay in this process's memory."""

    def holds(self, rows: int, columns: int) -> bool:
        """Return whether a (rows, columns) matrix stays in memory."""

    def train(self, cohort: Cohort, columns: int, train: Train) -> tuple[StoredRows, Trained]:
        """Train a cohort; return where its updates lie, and reports."""

    def close(self) -> None:
        """Let go of them."""


class UpdateRoom:
    """Keeps the updates of a round in memory while they fit, and otherwise in a file.

    One file serves all rounds. Half of the memory is for the updates that are on their way to the
    file, or for the blocks that are read from it.

    Parameters
    ----------
    memory : int
        Bytes that the updates of a round may take in memory.
    folder : Path
        Where the file lies.
    kind : str
        ``"float32"`` or ``"bfloat16"``, how the file keeps a number.
    """

    def __init__(self, memory: int, folder: Path, kind: StoredType = "float32") -> None:
        self.memory, self.folder, self.kind = memory, folder, kind
        self._store: UpdateStore | None = None

    def holds(self, rows: int, columns: int) -> bool:
        """Return whether a (rows, columns) matrix stays in memory."""
        return rows * columns * 4 <= self.memory

    def rows(self, count: int, columns: int) -> StoredRows:
        """Return `count` rows of the file for a new round; the last round's are written over."""
        store = self._store
        if store is None or len(store) < count or store.columns != columns:
            self.close()
            self.folder.mkdir(parents=True, exist_ok=True)
            store = UpdateStore(self.folder, count, columns, self.memory // 2, self.kind)
            self._store = store
        return store.begin(count)

    def train(self, cohort: Cohort, columns: int, train: Train) -> tuple[StoredRows, Trained]:
        """Train a cohort, as many clients at a time as the memory holds; return rows and reports.

        Parameters
        ----------
        cohort : Cohort
            The round.
        columns : int
            Parameters D of the model.
        train : callable
            Trains a cohort into a matrix on the device; see `Executor.train`.
        """
        count = len(cohort.clients)
        found = self.rows(count, columns)
        step = max(1, min(count, self.memory // 2 // (4 * columns)))
        room = torch.empty(step, columns, device=cohort.global_vector.device)
        trained = Trained(torch.zeros(count, dtype=torch.float64), [0.0] * count)
        for first in range(0, count, step):
            part = _part(cohort, first, first + step)
            deltas = room[: len(part.clients)]
            _note(trained, first, train(part, deltas))
            found.store.write(first, deltas)
        return found, trained

    def close(self) -> None:
        """Let go of the file."""
        if self._store is not None:
            self._store.close()
            self._store = None


def _part(cohort: Cohort, first: int, last: int) -> Cohort:
    return replace(cohort, clients=cohort.clients[first:last], configs=cohort.configs[first:last])


def _note(whole: Trained, first: int, part: Trained) -> None:
    count = len(part.losses)
    whole.examples[first : first + count] = part.examples
    whole.losses[first : first + count] = part.losses
    whole.failed.update(_moved(part.failed.items(), first))


def _moved(failed: Iterable[tuple[int, str]], by: int) -> dict[int, str]:
    return {row + by: why for row, why in failed}
