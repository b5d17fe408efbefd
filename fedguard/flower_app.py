"""The ServerApp and ClientApp that `flwr run`, SuperNodes and Flower's simulation load.

Flower starts one process per message on a SuperNode, so this module imports little; what trains is
in `fedguard.nodes.answers`.

``python -m fedguard.flower_app FOLDER`` writes the project file that `flwr run` reads, for those
who have fedguard installed without its repository.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from logging import ERROR, INFO
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp

from fedguard.config import SimulationConfig
from fedguard.errors import ConfigurationError, RunError
from fedguard.grids.flower import FlowerGrid
from fedguard.nodes.app import make_client_app
from fedguard.nodes.run_config import config_from_run, resumes


def make_server_app(listen: Callable[[dict[str, Any]], None] = lambda _: None) -> ServerApp:
    """Return the app that runs a configured strategy on Flower's grid."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            serve(grid, context, listen)
        except (ConfigurationError, RunError) as error:
            log(ERROR, "fedguard: %s", error)
            # Flower logs the traceback of whatever ends a ServerApp; here the line says it all.
            sys.tracebacklimit = 0
            raise type(error).__base__(f"fedguard: {error}") from None  # type: ignore[misc]

    return app


def serve(grid: Grid, context: Context, listen: Callable[[dict[str, Any]], None]) -> None:
    """Run the configured simulation on a grid of Flower's and write its run directory."""
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    config = config_from_run(context.run_config)
    nodes = FlowerGrid(grid, patience=config.join_timeout, deployed=True)
    if "clients" not in config.model_fields_set:
        config = config_from_run(context.run_config, nodes.federation_size())
    config = config.model_copy(update={"engine": "flower"})
    nodes.clients = config.clients
    from fedguard.records.directory import choose_directory
    from fedguard.reporting.opening import opening_lines
    from fedguard.reporting.report import write_report
    from fedguard.runs.deployment import check_deployable
    from fedguard.runs.simulation import Simulation

    given = context.run_config.get("out")
    out = Path(str(given or f"runs/flower-{context.run_id}"))
    resume = resumes(context.run_config)
    directory = choose_directory(config, out, resume)
    simulation = Simulation(config)
    world = simulation.world
    check_deployable(config, world.strategy, world.attack, getattr(world, "federation", None))
    world.check_deployed()
    for line in (*opening_lines(config), f"results in {directory.resolve()}"):
        log(INFO, "fedguard: %s", line)  # Flower's own lines name neither strategy nor attack
    simulation.run(directory, resume=resume, on_round=listen, grid=nodes)
    write_report(directory)


def project_file() -> str:
    """Return the text of a project file that lets `flwr run` run an installed fedguard."""
    from fedguard import __version__

    lines = ["[project]", 'name = "fedguard-app"', f'version = "{__version__}"']
    lines += ['description = "fedguard as a Flower app"', 'license = "Apache-2.0"', ""]
    return "\n".join([*lines, *app_section()]) + "\n"


def app_section() -> list[str]:
    """Return the lines of ``[tool.flwr.app]``, with every key of the run configuration."""
    keys = ["config", "set", "out", "resume", *SimulationConfig.model_fields]
    return [
        "[tool.flwr.app]",
        'publisher = "fedguard"',
        "",
        "[tool.flwr.app.components]",
        'serverapp = "fedguard.flower_app:server_app"',
        'clientapp = "fedguard.flower_app:client_app"',
        "",
        "[tool.flwr.app.config]",
        *(f'{key} = ""' for key in keys),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Write the project file into the folder that the arguments name; return 0, or 2."""
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 1:
        print("usage: python -m fedguard.flower_app FOLDER", file=sys.stderr)
        return 2
    target = Path(given[0]) / "pyproject.toml"
    if target.exists():
        print(f"fedguard: {target} exists already", file=sys.stderr)
        return 2
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(project_file(), encoding="utf-8")
    print(f"wrote {target}; run it with: flwr run {target.parent}")
    return 0


client_app = make_client_app()
server_app = make_server_app()

if __name__ == "__main__":
    sys.exit(main())
