"""`BatchedExecutor`: groups of clients train as one program; who cannot, trains under `reuse`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from fedguard.clients.executors import Cohort, Crew, Executor, ReuseExecutor, Trained
from fedguard.clients.grouping import Group, make_groups
from fedguard.clients.training import ClientTrainer, TrainingSettings

GROUP_BYTES = 3 << 20
"""Weights and momenta of one group on a CPU: what stays in cache from step to step. Measured with
the mlp on MNIST: 83 us per client and step at 3 MB, 192 us at 40 MB."""

GROUP_BYTES_GPU = 4 << 30
"""The same on a GPU, where a group is bounded by memory alone."""

MAX_GROUP = 64
"""Most clients of a group on a CPU; more bring nothing."""

MAX_GROUP_GPU = 1024
"""Most clients of a group on a GPU."""


class Program(ABC):
    """One batched training program; not shared between threads.

    Parameters
    ----------
    trainer : ClientTrainer
        Model, layout and settings.
    size : int
        Most clients of a group.

    Attributes
    ----------
    settings : TrainingSettings
        Hyper-parameters of the round; the trainer's own until they are set.
    """

    exact = False
    """Whether only clients with equally many examples may share a group."""

    def __init__(self, trainer: ClientTrainer, size: int) -> None:
        self.trainer = trainer
        self.settings = trainer.settings
        self.layout = trainer.layout
        device = trainer.model.vector.device
        shape = (size, self.layout.num_trainable)
        self.vectors = torch.empty(shape, device=device)
        self.momenta = torch.empty(shape if self.settings.momentum else (0, 0), device=device)

    def train(self, group: Group, global_vector: Tensor, deltas: Tensor) -> list[float]:
        """Train a group, write its rows of `deltas`; return each client's loss."""
        count, trainable = len(group.positions), self.layout.num_trainable
        self.load(global_vector, count)
        self.momenta[:count].zero_()
        losses = torch.zeros(count, device=global_vector.device)
        for step, active in enumerate(group.active):
            loss = self.step(group, step, active)
            losses[:active] += loss * group.shares[:active, step]
        for row, position in enumerate(group.positions):
            out = deltas[position]
            torch.sub(self.vectors[row], global_vector[:trainable], out=out[:trainable])
            self.write_buffers(row, global_vector, out)
        return [float(value) for value in losses.tolist()]

    def load(self, global_vector: Tensor, count: int) -> None:
        """Let `count` clients start from the global model."""
        self.vectors[:count] = global_vector[: self.layout.num_trainable]

    def write_buffers(  # noqa: B027
        self, row: int, global_vector: Tensor, out: Tensor
    ) -> None:
        """Write the part of a client's delta that is not trainable."""

    @abstractmethod
    def step(self, group: Group, step: int, active: int) -> Tensor:
        """Take one SGD step of the first `active` clients; return their (active,) losses."""


class BatchedExecutor(Executor):
    """Train groups of clients as one batched program each.

    1. Malicious clients whose attack acts inside training run under `reuse`, and so do clients
       whose message asks for another training than the first one's, or for no plain SGD.
    2. The others are sorted by shard size and cut into groups; poisoned data are just data.
    3. Every client takes the batches it takes under `reuse`; what is padded has weight 0.
    4. A group that fails is trained client by client, so that only those fail who must.

    Results agree with `reuse` to rounding, and are the same for any number of threads.

    Parameters
    ----------
    trainer : ClientTrainer
        Trains who cannot be batched.
    name : str
        Name of the program.
    make : callable
        Makes the program of one thread.
    threads : int
        Groups trained at the same time, at least 1.
    largest : int, optional
        Most clients of a group, where the program says so.
    """

    def __init__(
        self,
        trainer: ClientTrainer,
        name: str,
        make: Callable[[ClientTrainer, int], Program],
        threads: int = 1,
        largest: int | None = None,
    ) -> None:
        super().__init__(trainer)
        self.name = name
        self.size = min(group_size(trainer), largest or MAX_GROUP_GPU)
        self.reuse = ReuseExecutor(trainer)
        self._crew = Crew([make(trainer, self.size) for _ in range(threads)])

    def train(self, cohort: Cohort, deltas: Tensor) -> Trained:
        """Train a cohort; see `Executor.train`."""
        trainer = self.trainer
        trainer.prepare_for(cohort.attacking, cohort.server_round, cohort.global_vector)
        trained = Trained(
            torch.empty(len(cohort.clients), dtype=torch.float64), [0.0] * len(cohort.clients)
        )
        settings = trainer.settings_for(cohort.config(0), cohort.server_round)
        batched: list[int] = []
        alone: list[int] = []
        for row in range(len(cohort.clients)):
            (batched if self._fits(cohort, row, settings) else alone).append(row)
        for program in self._crew.workers:
            program.settings = settings
        exact = self._crew.workers[0].exact
        groups = list(make_groups(trainer, cohort, batched, self.size, settings, exact=exact))

        def do(program: Program, group: Group) -> None:
            try:
                losses = program.train(group, cohort.global_vector, deltas)
            except Exception:  # one client's rows can be too much for a stranger's network
                alone.extend(group.positions)
                return
            for position, size, loss in zip(group.positions, group.sizes, losses, strict=True):
                trained.examples[position] = size
                trained.losses[position] = loss

        self._crew.run(groups, do)
        self.reuse.train_rows(cohort, sorted(alone), deltas, trained)
        return trained

    def _fits(self, cohort: Cohort, row: int, settings: TrainingSettings) -> bool:
        """Return whether a client trains as the program does: plain SGD with these settings."""
        trainer = self.trainer
        if trainer.step_attack(cohort.clients[row], cohort.attacking) is not None:
            return False
        if not cohort.configs:
            return True
        if settings.momentum and not trainer.settings.momentum:
            return False  # a program has no room for momentum that nobody configured
        config = cohort.config(row)
        same = trainer.settings_for(config, cohort.server_round) == settings
        return same and trainer.rule.plain(config)

    def close(self) -> None:
        """End the threads."""
        self._crew.close()
        self.reuse.close()


def group_size(trainer: ClientTrainer) -> int:
    """Return how many clients share a group; a function of model, momentum and device alone."""
    kept = 4 * trainer.layout.num_trainable * (2 if trainer.settings.momentum else 1)
    if trainer.model.vector.device.type == "cpu":
        return max(1, min(MAX_GROUP, GROUP_BYTES // kept))
    return max(1, min(MAX_GROUP_GPU, GROUP_BYTES_GPU // (4 * kept)))
