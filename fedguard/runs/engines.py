"""The grid of a run whose clients train under this process's control."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fedguard.clients.executors import Executor
from fedguard.clients.planner import Plan, make_executor
from fedguard.clients.training import ClientTrainer
from fedguard.config import SimulationConfig
from fedguard.grids.inprocess import InProcessGrid


@contextmanager
def local_grid(
    config: SimulationConfig,
    trainer: ClientTrainer,
    chosen: Plan,
    attacking: Callable[[int], bool],
) -> Iterator[InProcessGrid]:
    """Give the grid of the engines ``inprocess`` and ``ray``; end its workers afterwards."""
    executor: Executor
    if config.engine == "ray":
        from fedguard.nodes.ray import RayExecutor

        executor = RayExecutor(trainer, config.model_copy(update={"executor": chosen.executor}))
    else:
        executor = make_executor(chosen, trainer)
    try:
        yield InProcessGrid(trainer, attacking, executor)
    finally:
        executor.close()
