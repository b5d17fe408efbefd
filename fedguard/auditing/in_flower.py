"""The engine ``flower``: an app's own clients inside Flower's simulation runtime, on Ray."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

from flwr.app import Context, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedguard.auditing.clients import AnyClients
from fedguard.auditing.project import Project
from fedguard.errors import RunError
from fedguard.grids.flower import FlowerGrid, on_ray
from fedguard.grids.identity import PARTITION_KEY, SIZE_KEY

_PATIENCE = 600.0
"""Seconds that simulated nodes have to say who they are: Ray may start slowly."""


_SAID = "fedguard.partition"


class SimulatedClients(ClientApp):
    """An app's clients as Flower's simulation sends them to its workers: by their path.

    Each worker imports the app for itself. Clients find the run configuration of the app in their
    context; the first question of all, which says nothing, they answer with their partition.

    Parameters
    ----------
    project : Project
        The app.
    scratch : str
        The folder in which it works.
    """

    def __init__(self, project: Project, scratch: str) -> None:
        super().__init__()
        self.project = project
        self.scratch = scratch

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message as the app does."""
        asked = message.metadata.message_type == MessageType.QUERY and not message.content
        if asked and _SAID not in context.state:  # an app's own such queries come later
            context.state[_SAID] = MetricRecord({"once": 1})
            place = {key: int(context.node_config[key]) for key in (PARTITION_KEY, SIZE_KEY)}
            return Message(RecordDict({"place": MetricRecord(dict(place))}), reply_to=message)
        theirs = Context(
            run_id=context.run_id,
            node_id=context.node_id,
            node_config=context.node_config,
            state=context.state,
            run_config=dict(self.project.config),
        )
        try:
            answer: Message = AnyClients(self._app())(message, theirs)
        except SystemExit as error:  # the worker is not the client's alone
            raise RuntimeError(f"the client called sys.exit({error.code})") from error
        return answer

    def _app(self) -> ClientApp:
        if self.project.folder not in sys.path:
            sys.path.insert(0, self.project.folder)
            os.chdir(self.scratch)
        return self.project.load_client()


def with_simulated_clients(project: Project, use: Callable[[Grid], Any]) -> Any:
    """Return what `use` returns of a grid that reaches an app's clients in Flower's simulation.

    Parameters
    ----------
    project : Project
        The app; its clients are numbered 0 to K - 1 on the grid.
    use : callable
        Called once, as a ServerApp is, while the simulation runs.

    Raises
    ------
    RunError
        If the simulation ends before `use` has returned.
    """
    from flwr.simulation import run_simulation

    found: list[Any] = []
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        found.append(use(FlowerGrid(grid, patience=_PATIENCE, clients=project.clients)))

    reason: Exception | None = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            run_simulation(
                app,
                SimulatedClients(project, os.getcwd()),
                num_supernodes=project.clients,
                backend_config=on_ray(),
            )
        except RuntimeError as error:  # that of the simulation, not of the app
            reason = error
    if not found:
        text = "Flower's simulation did not get through; on a busy machine Ray starts too slowly"
        raise RunError(f"{text} (the cell's log says more)") from reason
    return found[0]
