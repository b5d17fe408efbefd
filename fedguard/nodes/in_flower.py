"""The engine ``flower``: a run inside Flower's simulation runtime, its clients on Ray."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedguard.config import SimulationConfig
from fedguard.grids.flower import FlowerGrid, on_ray
from fedguard.nodes.app import make_client_app

_SIMULATED_PATIENCE = 1800.0
"""Seconds that simulated nodes have to introduce themselves: Ray may start slowly, none is lost."""


def run_in_flower(config: SimulationConfig, serve: Callable[[Grid], None]) -> None:
    """Run `serve` as a ServerApp of Flower's simulation runtime, its clients on Ray.

    Parameters
    ----------
    config : SimulationConfig
        What the clients build their data, model and training from.
    serve : callable
        Runs the federation on the grid that it is given.
    """
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    from flwr.simulation import run_simulation

    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        serve(FlowerGrid(grid, patience=_SIMULATED_PATIENCE, clients=config.clients))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        run_simulation(
            server_app,
            make_client_app(config.model_dump_json()),
            num_supernodes=config.clients,
            backend_config=on_ray(),
        )
