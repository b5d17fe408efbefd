"""Which executor trains a run's clients, and why."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from fedguard.clients.batched import BatchedExecutor, group_size
from fedguard.clients.conv import GROUP, ConvProgram
from fedguard.clients.dense import DenseProgram, chain_of
from fedguard.clients.executors import Cohort, Executor, ReuseExecutor
from fedguard.clients.patched import PatchedProgram, fits
from fedguard.clients.stages import stages_of
from fedguard.clients.training import NOTHING, ClientTrainer
from fedguard.config import SimulationConfig, load_yaml

NAMES = ("reuse", "vmap", "dense", "conv")
"""Executors, from the slowest start to the most special one."""

SMALL_MODEL = 50_000
"""Most parameters for which `vmap` is picked on a CPU; larger stacks leave the cache."""

LEAST_GROUP = 4
"""Fewest clients per round for which a batch is worth its start."""

HEAVY_STEP = 500e-6
"""Seconds of one step from which threads pay: below, Python's own lock holds them up. Threads
change no result, so that this may depend on the machine's mood."""

_TRIALS = 3


@dataclass(frozen=True)
class Plan:
    """An executor's name, why it was picked, and what else a reader should know."""

    executor: str
    reason: str
    threads: int = 1


def plan(config: SimulationConfig, trainer: ClientTrainer) -> Plan:
    """Return how a run's clients are trained.

    ``auto`` is a function of model, device and cohort alone, so that a run repeats and resumes
    with the same executor on any machine of its kind: chains of linear layers and ReLU are
    batched by hand (``dense``), on a CPU those of convolutions, max-pooling, linear layers and ReLU
    too (``conv``), other networks by `torch.func` on a GPU and, where they are small
    and without convolutions, on a CPU; everything else is trained client by client (``reuse``).
    ``timed`` measures instead; its choice is written into the run's configuration.
    """
    name, reason = _choose(config, trainer)
    return Plan(name, reason, threads=_threads(config, trainer, name))


def settle(
    config: SimulationConfig, trainer: ClientTrainer, out: Path, *, resume: bool
) -> tuple[SimulationConfig, Plan]:
    """Return the plan of a run, and its configuration with a measured choice written down.

    A resumed run goes on with the executor that was measured for it before.
    """
    if config.executor == "timed" and config.engine != "flower":
        before = load_yaml(out / "config.yaml") if resume and (out / "config.yaml").exists() else {}
        name = before.get("executor")
        if name in NAMES:
            chosen = Plan(name, "measured when the run began")
        else:
            chosen = plan(config, trainer)
        return config.model_copy(update={"executor": chosen.executor}), chosen
    return config, plan(config, trainer)


def _choose(config: SimulationConfig, trainer: ClientTrainer) -> tuple[str, str]:
    if config.engine == "flower":
        return "reuse", "Flower hands over one client at a time"
    if config.executor == "auto":
        return _rule(config, trainer)
    if config.executor == "timed":
        return _timed(config, trainer)
    why = _obstacle(config.executor, trainer)
    if why is not None:
        return "reuse", f"{config.executor} was asked for, but {why}"
    return config.executor, "asked for"


def _obstacle(name: str, trainer: ClientTrainer) -> str | None:
    """Return why an executor cannot train this network, or None."""
    if name == "reuse":
        return None
    if trainer.personal is not None:
        return "a part of the model stays with each client"
    if trainer.draws:
        return "the network draws random numbers, which a batch of clients would draw differently"
    if not trainer.rule.plain(NOTHING):
        return f"training {type(trainer.rule).__name__} is not plain SGD"
    if trainer.federation.task.settles:
        return "the task looks at a client's whole shard"
    if name in ("dense", "conv") and not trainer.federation.task.softmax:
        return "the loss is not the cross-entropy of one class per row"
    if name == "dense":
        chain = chain_of(trainer.model.module)
        return None if chain else "the network is more than linear layers with ReLU"
    if name == "conv":
        return _no_stages(trainer)
    from fedguard.clients.vmap import why_not

    return why_not(trainer)


def _no_stages(trainer: ClientTrainer) -> str | None:
    """Return why `conv` cannot train this network, or None."""
    if trainer.model.vector.device.type != "cpu":
        return "conv is made for CPUs"
    if len(trainer.federation.dataset.input_shape) != 3:
        return "the rows are no pictures"
    if stages_of(trainer.model.module) is None:
        return "the network is more than convolutions, max-pooling, ReLU and linear layers"
    return None


def _rule(config: SimulationConfig, trainer: ClientTrainer) -> tuple[str, str]:
    if config.engine == "ray":
        return "reuse", "the number of workers then changes no result"
    cohort = max(1, round(config.fraction * config.clients))
    if cohort < LEAST_GROUP:
        return "reuse", f"{cohort} clients a round are too few for a batch"
    if _obstacle("dense", trainer) is None:
        return "dense", f"linear layers with ReLU: groups of up to {group_size(trainer)} clients"
    if trainer.model.vector.device.type == "cpu":
        if _obstacle("conv", trainer) is None:
            way = "one product each" if fits(trainer) else "client by client"
            return "conv", f"convolutions ({way}), max-pooling: groups of up to {GROUP} clients"
        if any(
            isinstance(part, nn.modules.conv._ConvNd) for part in trainer.model.module.modules()
        ):
            return "reuse", "convolutions gain nothing from batching clients on a CPU"
        if trainer.layout.num_trainable > SMALL_MODEL:
            return "reuse", f"a stack of {trainer.layout.num_trainable} parameters leaves the cache"
    why = _obstacle("vmap", trainer)
    if why is not None:
        return "reuse", why
    return "vmap", f"groups of up to {group_size(trainer)} clients"


def _timed(config: SimulationConfig, trainer: ClientTrainer) -> tuple[str, str]:
    count = max(1, round(config.fraction * config.clients))
    clients = tuple(range(min(count, group_size(trainer), config.clients)))
    seconds = {
        name: _seconds(make_executor(Plan(name, ""), trainer), clients)
        for name in NAMES
        if _obstacle(name, trainer) is None
    }
    told = ", ".join(f"{name} {1e6 * value:.0f} us" for name, value in seconds.items())
    return min(seconds, key=lambda name: seconds[name]), f"per client and step: {told}"


def _seconds(executor: Executor, clients: tuple[int, ...]) -> float:
    """Return the least time of one client's step over a few trials."""
    trainer = executor.trainer
    whole, vector = trainer.model.whole_vector(), trainer.global_vector()
    deltas = torch.empty(len(clients), trainer.layout.size, device=vector.device)
    settings = trainer.settings
    sizes = [len(trainer.federation.shards[client]) for client in clients]
    steps = settings.local_epochs * sum(-(-size // settings.batch_size) for size in sizes)
    found = []
    for _ in range(_TRIALS):
        started = time.perf_counter()
        executor.train(Cohort(clients, 0, vector), deltas)
        if vector.device.type == "cuda":
            torch.cuda.synchronize()
        found.append((time.perf_counter() - started) / steps)
    executor.close()
    trainer.model.load(whole)
    trainer.memories.clear()
    return min(found)


def _threads(config: SimulationConfig, trainer: ClientTrainer, name: str) -> int:
    """Return how many clients or groups train at once; no result depends on it."""
    if config.engine in ("ray", "flower") or trainer.model.vector.device.type != "cpu":
        return 1
    if config.workers is not None:
        return config.workers
    cores = min(torch.get_num_threads(), len(os.sched_getaffinity(0)))
    if cores == 1 or name not in ("reuse", "conv"):
        return 1
    first = ReuseExecutor(trainer)
    return cores if _seconds(first, (0,)) > HEAVY_STEP else 1


def make_executor(chosen: Plan, trainer: ClientTrainer) -> Executor:
    """Return the executor that a plan names."""
    if chosen.executor == "reuse":
        return ReuseExecutor(trainer, chosen.threads)
    if chosen.executor == "dense":
        return BatchedExecutor(trainer, "dense", DenseProgram, chosen.threads)
    if chosen.executor == "conv":
        program = PatchedProgram if fits(trainer) else ConvProgram
        return BatchedExecutor(trainer, "conv", program, chosen.threads, largest=GROUP)
    from fedguard.clients.vmap import VmapProgram

    return BatchedExecutor(trainer, "vmap", VmapProgram, chosen.threads)
