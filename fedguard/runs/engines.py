"""Engines: where the clients of a run are, and the grid that reaches them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

from flwr.serverapp import Grid

from fedguard.clients.executors import Executor
from fedguard.clients.planner import Plan, make_executor
from fedguard.clients.training import ClientTrainer
from fedguard.config import SimulationConfig
from fedguard.grids.foreign_app import ClientAppGrid, find_client_app
from fedguard.grids.history import History
from fedguard.grids.inprocess import InProcessGrid
from fedguard.grids.update_room import Room
from fedguard.runs.course import Ended
from fedguard.runs.world import Record, World


def serve(world: World, grid: Grid | None, record: Record) -> None:
    """Run a world's rounds on the grid that is given, or on the configured engine's.

    A world whose `record` says that the run has come to its end stops there.
    """
    with suppress(Ended):
        _serve(world, grid, record)


def _serve(world: World, grid: Grid | None, record: Record) -> None:
    config = world.config
    if grid is not None:
        world.serve(grid, record)
    elif config.engine == "flower":
        from fedguard.nodes.in_flower import run_in_flower

        def serve_there(found: Grid) -> None:
            with suppress(Ended):
                world.serve(found, record)

        run_in_flower(config, serve_there)
    elif config.client_app is not None:
        own = config.client_app
        app = find_client_app(own.name)
        with closing(ClientAppGrid(app, config.clients, own.arguments)) as theirs:
            world.serve(theirs, record)
    else:
        world.serve_here(record)


@contextmanager
def local_grid(
    config: SimulationConfig,
    trainer: ClientTrainer,
    chosen: Plan,
    attacking: Callable[[int], bool],
    history: History,
    room: Room | None = None,
) -> Iterator[InProcessGrid]:
    """Give the grid of the engines ``inprocess`` and ``ray``; end workers and file afterwards."""
    executor: Executor
    if config.engine == "ray":
        from fedguard.nodes.ray import RayExecutor
        from fedguard.nodes.spread import SpreadRoom

        executor = RayExecutor(trainer, config.model_copy(update={"executor": chosen.executor}))
        if config.updates_on == "workers":
            room = SpreadRoom(executor)
    else:
        executor = make_executor(chosen, trainer)
    try:
        yield InProcessGrid(trainer, attacking, executor, history, room)
    finally:
        executor.close()
        if room is not None:
            room.close()
