"""`RayExecutor`: the engine `ray`; clients train in processes, here or on a cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedguard.clients.executors import Cohort, Executor, Trained
from fedguard.clients.training import ClientTrainer
from fedguard.config import SimulationConfig
from fedguard.errors import RunError
from fedguard.nodes.spread import Parts, Shelf, SpreadStore, lost_errors

WAIT = 2.0
"""Seconds between looks at whether a worker that does not answer can start at all."""

ATTEMPTS = 3
"""How often a round is tried on a worker that is lost each time."""


class _Workplace(Shelf):
    """What one Ray actor does: train the clients that it is given, on its own copy of the data."""

    def __init__(self, config_json: str) -> None:
        super().__init__()
        torch.set_num_threads(1)
        from fedguard.clients.planner import make_executor, plan
        from fedguard.nodes.answers import workplace

        config, trainer = workplace(config_json)
        self.device = trainer.federation.device
        self.executor = make_executor(plan(config, trainer), trainer)

    def train(
        self,
        clients: tuple[int, ...],
        server_round: int,
        global_vector: np.ndarray,
        last_update: np.ndarray | None,
        attacking: bool,
        configs: tuple[Mapping[str, Any], ...],
        memories: dict[int, dict[str, np.ndarray]],
        timeout: float | None,
    ) -> tuple[
        np.ndarray, np.ndarray, list[float], dict[int, dict[str, np.ndarray]], dict[int, str]
    ]:
        """Return the (len(clients), D) deltas, examples, losses, memories, and who failed."""
        trainer = self.executor.trainer
        trainer.memories = {
            client: {name: torch.tensor(v, device=self.device) for name, v in memory.items()}
            for client, memory in memories.items()
        }
        last = None if last_update is None else torch.tensor(last_update, device=self.device)
        cohort = Cohort(
            clients,
            server_round,
            torch.tensor(global_vector, device=self.device),
            attacking,
            last,
            configs,
            timeout,
        )
        deltas = torch.empty(len(clients), len(global_vector), device=self.device)
        trained = self.executor.train(cohort, deltas)
        kept = {
            client: {name: value.cpu().numpy() for name, value in memory.items()}
            for client, memory in trainer.memories.items()
        }
        block = deltas.cpu().numpy()
        return block, trained.examples.numpy(), trained.losses, kept, trained.failed

    def train_apart(self, cuts: list[int], *instruction: Any) -> tuple[Any, ...]:
        """Train as `train` does; return the report, without deltas, and their slabs of columns."""
        block, *report = self.train(*instruction)
        return report, *(block[:, start:end] for start, end in pairwise(cuts))


class RayExecutor(Executor):
    """Train the clients of a round on Ray actors.

    1. Put the global vector into Ray's object store, once.
    2. Give each worker its clients: client k belongs to worker k modulo the number of workers.
    3. Copy each worker's block of deltas into the rows of its clients, in client order.
    4. Replace the workers that were lost, alone or with their node, where a living node has room
       for them, and let their clients train again.

    Under the executor `reuse` no result depends on the number of workers, nor on who was lost.

    Parameters
    ----------
    trainer : ClientTrainer
        Trainer of this process; it trains nothing here.
    config : SimulationConfig
        What a worker builds its data and model from.
    """

    name = "ray"

    def __init__(self, trainer: ClientTrainer, config: SimulationConfig) -> None:
        super().__init__(trainer)
        self._config = config
        self._gpu = trainer.model.vector.device.type == "cuda"
        self.count = config.workers or _share(self._gpu)
        self._started = start_ray(config.ray_address, self.count)
        self._starting: list[Any] = []
        self.actors = [self._new_actor() for _ in range(self.count)]

    def _new_actor(self) -> Any:
        import ray

        update: dict[str, Any] = {"executor": self._config.executor, "engine": "ray"}
        if self._gpu:
            update["device"] = "cuda"  # Ray shows each actor its own GPU as the first one
        if self._config.data_dir is not None:
            update["data_dir"] = self._config.data_dir.resolve()
        text = self._config.model_copy(update=update).model_dump_json()
        remote = ray.remote(_Workplace)
        made = remote.options(num_cpus=1, num_gpus=1 if self._gpu else 0).remote(text)
        self._starting.append(made)
        return made

    def train(self, cohort: Cohort, deltas: Tensor) -> Trained:
        """Train a cohort; see `Executor.train`."""
        return self._train(cohort, deltas)

    def train_apart(self, cohort: Cohort, store: SpreadStore) -> Trained:
        """Train a cohort whose updates stay on the workers; the store learns where they lie."""
        parts: Parts = []
        trained = self._train(cohort, parts, store.cuts)
        store.scatter(parts)
        return trained

    def replace_lost(self) -> None:
        """Start workers in place of those that do not live any more."""
        import ray

        answers = [actor.alive.remote() for actor in self.actors]
        lost = set()
        for worker, answer in enumerate(answers):
            try:
                if not self._arrives(worker, answer):
                    lost.add(worker)
                    continue
                ray.get(answer)
            except lost_errors():
                lost.add(worker)
        self._replace(lost)

    def _train(
        self, cohort: Cohort, into: Tensor | Parts, cuts: list[int] | None = None
    ) -> Trained:
        import ray

        count = len(cohort.clients)
        trained = Trained(torch.empty(count, dtype=torch.float64), [0.0] * count)
        vector = ray.put(cohort.global_vector.cpu().numpy())
        last = None if cohort.last_update is None else ray.put(cohort.last_update.cpu().numpy())
        waiting = list(range(count))
        for _ in range(ATTEMPTS):
            asked = {}
            for worker, rows in self._shares(cohort, waiting).items():
                answer = self._ask(
                    worker,
                    cuts,
                    tuple(cohort.clients[row] for row in rows),
                    cohort.server_round,
                    vector,
                    last,
                    cohort.attacking,
                    tuple(cohort.configs[row] for row in rows) if cohort.configs else (),
                    self._memories(cohort.clients[row] for row in rows),
                    cohort.timeout,
                )
                asked[worker] = (answer, rows)
            lost = {
                worker: rows
                for worker, (answer, rows) in asked.items()
                if not (self._arrives(worker, answer) and self._take(answer, rows, into, trained))
            }
            if not lost:
                return trained
            self._replace(lost)
            waiting = sorted(row for rows in lost.values() for row in rows)
        raise RunError(f"Ray lost the workers {sorted(lost)} {ATTEMPTS} times in one round")

    def _ask(self, worker: int, cuts: list[int] | None, *instruction: Any) -> Any:
        """Send an instruction; return where the answer, or its report and its slabs, will lie."""
        actor = self.actors[worker]
        if cuts is None:
            return actor.train.remote(*instruction)
        apart = actor.train_apart.options(num_returns=len(cuts))
        return apart.remote(cuts, *instruction)

    def _shares(self, cohort: Cohort, waiting: Sequence[int]) -> dict[int, list[int]]:
        """Return which of the waiting rows each worker trains; workers without one are left out."""
        shares: dict[int, list[int]] = {}
        for row in waiting:
            shares.setdefault(cohort.clients[row] % len(self.actors), []).append(row)
        return shares

    def _replace(self, lost: Collection[int]) -> None:
        """Start workers in place of lost ones, as many as the nodes that are left have room for.

        A worker that no node has room for would never start; those that live share its clients.
        """
        left = len(self.actors) - len(lost)
        new = min(len(lost), max(self._places() - left, 0 if left else 1))
        replaced = sorted(lost)[:new]
        self.actors = [
            self._new_actor() if worker in replaced else actor
            for worker, actor in enumerate(self.actors)
            if worker not in lost or worker in replaced
        ]

    def _arrives(self, worker: int, answer: Any) -> bool:
        """Wait for a worker's answer; return False if no living node has room to start it.

        A node's death is known some seconds later than that of its workers: until then a worker
        that is to replace one of them waits for the room that has gone.
        """
        import ray

        actor = self.actors[worker]
        first = answer[0] if isinstance(answer, list) else answer
        while not ray.wait([first], timeout=WAIT)[0]:
            if actor in self._starting and self._places() < len(self.actors):
                ray.kill(actor)
                return False
        self._starting = [one for one in self._starting if one is not actor]
        return True

    def _places(self) -> int:
        """Return how many workers the living nodes have room for."""
        import ray

        found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        return int(found.get("GPU" if self._gpu else "CPU", 0))

    def _take(self, answer: Any, rows: list[int], deltas: Tensor | Parts, trained: Trained) -> bool:
        """Copy one worker's answer into its rows; return False if the worker was lost."""
        import ray

        index = torch.tensor(rows)
        try:
            if isinstance(deltas, Tensor):
                block, *report = ray.get(answer)
                deltas[index.to(deltas.device)] = torch.tensor(block, device=deltas.device)
            else:
                report = ray.get(answer[0])
                deltas.append((rows, answer[1:]))
        except lost_errors():
            return False
        examples, losses, kept, failed = report
        trained.examples[index] = torch.tensor(examples)
        for row, loss in zip(rows, losses, strict=True):
            trained.losses[row] = loss
        trained.failed.update({rows[place]: reason for place, reason in failed.items()})
        for client, memory in kept.items():
            self.trainer.memories[client] = {n: torch.tensor(v) for n, v in memory.items()}
        return True

    def _memories(self, clients: Iterable[int]) -> dict[int, dict[str, np.ndarray]]:
        """Return what clients keep between rounds; it travels, so that a lost worker loses none."""
        known = self.trainer.memories
        return {
            client: {name: value.cpu().numpy() for name, value in known[client].items()}
            for client in clients
            if client in known
        }

    def close(self) -> None:
        """End the workers, and Ray if it was started here."""
        import ray

        for actor in self.actors:
            ray.kill(actor)
        self.actors = []
        if self._started:
            ray.shutdown()
            self._started = False


def _share(gpu: bool) -> int:
    """Return the number of workers where none is given: one per GPU, or one per core."""
    return torch.cuda.device_count() if gpu else len(os.sched_getaffinity(0))


def start_ray(address: str | None, workers: int) -> bool:
    """Connect to Ray, quietly; return whether it was not running in this process before.

    Parameters
    ----------
    address : str, optional
        A running cluster, ``host:port`` or ``auto``; a Ray of our own if left out.
    workers : int
        Processes that a Ray of our own must offer at the least.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {
        "logging_level": "ERROR",
        "log_to_driver": False,
        "include_dashboard": False,
    }
    try:
        if address is not None:
            quiet.pop("include_dashboard")
            ray.init(address=address, **quiet)
        else:
            # Our own workers find fedguard, and the user's parts, where this process finds them.
            found = os.pathsep.join(path or os.getcwd() for path in sys.path)
            cpus = max(workers, len(os.sched_getaffinity(0)))
            environment = {"env_vars": {"PYTHONPATH": found}}
            ray.init(address="local", num_cpus=cpus, runtime_env=environment, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise RunError(f"Ray does not start at {address or 'this machine'}: {reason}") from error
    return True
