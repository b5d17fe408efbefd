"""Executors: how the clients of one round are trained on this machine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from fedguard.clients.desk import Desk
from fedguard.clients.training import NOTHING, ClientTrainer
from fedguard.clients.watch import ClientError

Worker = TypeVar("Worker")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Cohort:
    """The clients that train in one round, and what they train on.

    Attributes
    ----------
    clients : tuple of int
        Client ids, in the order of the rows that their deltas go to.
    server_round : int
        Current round, from 1.
    global_vector : Tensor
        (D,) the model they received, on the trainer's device.
    attacking : bool
        Whether malicious clients attack in this round.
    last_update : Tensor, optional
        (D,) what the server added in the round before.
    configs : tuple of mapping
        What the server's message says to each client, in the same order; empty if nothing.
    timeout : float, optional
        Seconds that each client has; one that outlasts them is lost in this round. Clients that
        are trained in batches are not timed.
    """

    clients: tuple[int, ...]
    server_round: int
    global_vector: Tensor
    attacking: bool = False
    last_update: Tensor | None = None
    configs: tuple[Mapping[str, Any], ...] = ()
    timeout: float | None = None

    def config(self, row: int) -> Mapping[str, Any]:
        """Return what the server says to the client of a row."""
        return self.configs[row] if self.configs else NOTHING


@dataclass(frozen=True)
class Trained:
    """What a cohort reports beside its deltas.

    Attributes
    ----------
    examples : Tensor
        (K,) float64, number of examples of each client.
    losses : list of float
        (K,) mean training loss of each client's last epoch.
    failed : dict of int to str
        Row of the cohort to why its client has no delta; its row of the deltas is 0.
    """

    examples: Tensor
    losses: list[float]
    failed: dict[int, str] = field(default_factory=dict)


class Executor(ABC):
    """Trains the clients of a round; every executor takes exactly the same batches.

    Parameters
    ----------
    trainer : ClientTrainer
        The readable reference: model, data, settings, and how one client is trained.
    """

    name = "executor"

    def __init__(self, trainer: ClientTrainer) -> None:
        self.trainer = trainer

    @abstractmethod
    def train(self, cohort: Cohort, deltas: Tensor) -> Trained:
        """Train a cohort and write each client's delta into its row of `deltas` (K, D)."""

    def close(self) -> None:  # noqa: B027
        """Let go of threads and processes."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch use one thread per operation.

    Two threads inside one convolution or matrix product sum in another order than one, so a
    result would depend on the machine; and for steps of a few milliseconds waking them costs more
    than they bring. Cores are used by training several clients at once instead.
    """
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Crew(Generic[Worker]):
    """Threads that share a list of tasks, each thread with a worker of its own.

    Parameters
    ----------
    workers : sequence
        What a thread works with; one thread per worker. With one worker no thread is started.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        self.workers = list(workers)
        self._pool: ThreadPoolExecutor | None = None

    def run(self, tasks: Sequence[Item], do: Callable[[Worker, Item], None]) -> None:
        """Do every task once; raise the first error."""
        queue = iter(list(tasks))

        def work(worker: Worker) -> None:
            for task in queue:
                do(worker, task)

        with one_thread():
            if len(self.workers) == 1 or len(tasks) < 2:
                work(self.workers[0])
                return
            if self._pool is None:
                self._pool = ThreadPoolExecutor(
                    len(self.workers), initializer=torch.set_num_threads, initargs=(1,)
                )
            for future in [self._pool.submit(work, worker) for worker in self.workers]:
                future.result()

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


class ReuseExecutor(Executor):
    """Train client after client on one reused model; with threads, one model per thread.

    The readable reference. A client's delta does not depend on the number of threads.

    Parameters
    ----------
    trainer : ClientTrainer
        Trains any client.
    threads : int
        Clients trained at the same time, at least 1. Malicious clients whose attack acts inside
        training run one after another, because an attack may keep state between steps.
    """

    name = "reuse"

    def __init__(self, trainer: ClientTrainer, threads: int = 1) -> None:
        super().__init__(trainer)
        self.threads = 1 if trainer.draws else threads
        self._crew: Crew[Desk] | None = None

    @property
    def crew(self) -> Crew[Desk]:
        """The threads and their desks."""
        if self._crew is None:
            trainer = self.trainer
            others = [Desk(trainer, trainer.twin()) for _ in range(self.threads - 1)]
            self._crew = Crew([Desk(trainer), *others])
        return self._crew

    def train(self, cohort: Cohort, deltas: Tensor) -> Trained:
        """Train a cohort; see `Executor.train`."""
        self.trainer.prepare_for(cohort.attacking, cohort.server_round, cohort.global_vector)
        trained = Trained(
            torch.empty(len(cohort.clients), dtype=torch.float64), [0.0] * len(cohort.clients)
        )
        self.train_rows(cohort, range(len(cohort.clients)), deltas, trained)
        return trained

    def train_rows(
        self, cohort: Cohort, rows: Sequence[int], deltas: Tensor, trained: Trained
    ) -> None:
        """Train the clients of some rows of a cohort."""

        def do(desk: Desk, row: int) -> None:
            try:
                count, loss, delta = desk.run(
                    lambda trainer: _train_row(trainer, cohort, row, deltas[row]), cohort.timeout
                )
            except ClientError as failure:
                deltas[row].zero_()
                trained.examples[row], trained.failed[row] = 0, str(failure)
                return
            if cohort.timeout is not None:
                deltas[row] = delta
            trained.examples[row], trained.losses[row] = count, loss

        special = [row for row in rows if self._alone(cohort, row)]
        with one_thread():
            for row in special:
                do(self.crew.workers[0], row)
        if rest := sorted(set(rows) - set(special)):
            self._load_poison(cohort, rest)
            self.crew.run(rest, do)

    def _alone(self, cohort: Cohort, row: int) -> bool:
        return self.trainer.step_attack(cohort.clients[row], cohort.attacking) is not None

    def _load_poison(self, cohort: Cohort, rows: Sequence[int]) -> None:
        """Poison data before threads start: an attack need not be safe in threads."""
        for row in rows:
            self.trainer.data_of(cohort.clients[row], attacking=cohort.attacking)

    def close(self) -> None:
        """End the threads."""
        if self._crew is not None:
            for desk in self._crew.workers:
                desk.close()
            self._crew.close()
            self._crew = None


def _train_row(
    trainer: ClientTrainer, cohort: Cohort, row: int, out: Tensor
) -> tuple[int, float, Tensor]:
    """Train the client of a row; return its examples, its loss, and its delta.

    Where clients are timed, the delta is written into a tensor of its own: one that was given up
    must not write into the round.
    """
    delta = out if cohort.timeout is None else torch.empty_like(out)
    count, loss = trainer.train(
        cohort.clients[row],
        cohort.server_round,
        cohort.global_vector,
        delta,
        attacking=cohort.attacking,
        last_update=cohort.last_update,
        config=cohort.config(row),
    )
    return count, loss, delta
