"""The ServerApp and ClientApp that `flwr run`, SuperNodes and Flower's simulation load.

Flower starts one process per message on a SuperNode, so this module imports little; what trains is
in `fedguard.flower_client`.

``python -m fedguard.flower_app FOLDER`` writes the project file that `flwr run` reads, for those
who have fedguard installed without its repository.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from logging import ERROR
from pathlib import Path
from typing import Any

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp

from fedguard.client_app import find_client_app
from fedguard.config import SimulationConfig, assign, load_yaml, parse, read_setting
from fedguard.errors import ConfigurationError, RunError
from fedguard.grids.flower import PARTITION_KEY, SIZE_KEY, FlowerGrid
from fedguard.vertical.handlers import add_party_handlers

_NOT_FIELDS = ("config", "out", "set")


def make_client_app(config_json: str | None = None) -> ClientApp:
    """Return the app of one client, honest or malicious.

    Parameters
    ----------
    config_json : str, optional
        The run's `SimulationConfig`; read from the Flower run configuration if left out.
    """
    app = ClientApp()

    def setting(context: Context) -> SimulationConfig:
        if config_json is not None:
            return SimulationConfig.model_validate_json(config_json)
        return client_config(context)

    @app.query()
    def query(message: Message, context: Context) -> Message:
        place: dict[str, int | float] = {PARTITION_KEY: partition_of(context)}
        if isinstance(size := context.node_config.get(SIZE_KEY), int):
            place[SIZE_KEY] = size
        return Message(RecordDict({"metrics": MetricRecord(dict(place))}), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        config = setting(context)
        if config.client_app is not None:
            return _their_answer(config, message, context)
        from fedguard.flower_client import train_client

        return train_client(message, context, config.model_dump_json(), partition_of(context))

    def forget(message: Message, context: Context) -> Message:
        from fedguard.flower_client import forget_client

        return forget_client(message, setting(context).model_dump_json(), partition_of(context))

    app.train("unlearn")(forget)
    app.query("activations")(forget)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        config = setting(context)
        if config.client_app is not None:
            return _their_answer(config, message, context)
        from fedguard.flower_client import evaluate_client

        return evaluate_client(message, config.model_dump_json(), partition_of(context))

    add_party_handlers(
        app,
        lambda context: (setting(context).model_dump_json(), partition_of(context)),
        simulated=config_json is not None,
    )
    return app


def _their_answer(config: SimulationConfig, message: Message, context: Context) -> Message:
    """Let the user's own ClientApp answer, under its own run configuration."""
    assert config.client_app is not None
    context.run_config = config.client_app.arguments
    answer: Message = find_client_app(config.client_app.name)(message, context)
    return answer


def partition_of(context: Context) -> int:
    """Return the partition id in a node's configuration."""
    value = context.node_config.get(PARTITION_KEY)
    if not isinstance(value, int):
        raise ValueError(f"start the SuperNode with --node-config '{PARTITION_KEY}=0'")
    return value


def client_config(context: Context) -> SimulationConfig:
    """Return the run's configuration as one node sees it.

    The node's own configuration may name its ``data-dir``; its ``num-partitions`` is the number of
    clients where the run configuration names none.
    """
    size = context.node_config.get(SIZE_KEY)
    config = config_from_run(context.run_config, size if isinstance(size, int) else None)
    folder = context.node_config.get("data-dir")
    return config if folder is None else config.model_copy(update={"data_dir": Path(str(folder))})


def config_from_run(
    run_config: Mapping[str, Any], federation_size: int | None = None
) -> SimulationConfig:
    """Return the simulation's configuration from a Flower run configuration.

    ``config`` names a YAML file; every other key is a configuration field, dotted for a part's
    arguments (``strategy.max_clusters``), and wins over the file; ``set`` holds what Flower does
    not let through because the project file has no such key: ``FIELD=VALUE FIELD=VALUE``. An empty
    string stands for a key that is not given.

    Parameters
    ----------
    run_config : mapping
        Flower's run configuration.
    federation_size : int, optional
        Number of clients where neither the file nor the run configuration names one.
    """
    given = {key: value for key, value in run_config.items() if value != ""}
    values: dict[str, Any] = {}
    if path := given.get("config"):
        values = load_yaml(_existing(Path(str(path))))
    # A part's name comes before its arguments, "strategy" before "strategy.max_clusters".
    for key, value in sorted(given.items()):
        if key not in _NOT_FIELDS:
            assign(values, key, value)
    for setting in str(given.get("set", "")).split():
        assign(values, *read_setting(setting))
    if federation_size is not None:
        values.setdefault("clients", federation_size)
    return parse(values)


def _existing(path: Path) -> Path:
    """Return a relative path as it is, or within the Flower app that is being run."""
    inside = (Path(folder) / path for folder in sys.path if folder)
    return path if path.exists() else next((p for p in inside if p.is_file()), path)


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
    nodes = FlowerGrid(grid, patience=config.join_timeout)
    if "clients" not in config.model_fields_set:
        config = config_from_run(context.run_config, nodes.federation_size())
    config = config.model_copy(update={"engine": "flower"})
    nodes.clients = config.clients
    from fedguard.encryption.strategy import EncryptedStrategy
    from fedguard.reporting.report import write_report
    from fedguard.simulate import choose_directory
    from fedguard.simulation import Simulation

    given = context.run_config.get("out")
    out = Path(str(given or f"runs/flower-{context.run_id}"))
    directory = choose_directory(config, out, resume=False)
    simulation = Simulation(config)
    if isinstance(simulation.strategy, EncryptedStrategy):
        # Execution would encrypt in the server's own process: fine in a simulation, a lie here.
        raise ConfigurationError(
            "strategy", config.strategy.name, "a strategy that does not encrypt, in a deployment"
        )
    simulation.run(directory, on_round=listen, grid=nodes)
    write_report(directory)


def project_file() -> str:
    """Return the text of a project file that lets `flwr run` run an installed fedguard."""
    from fedguard import __version__

    lines = ["[project]", 'name = "fedguard-app"', f'version = "{__version__}"']
    lines += ['description = "fedguard as a Flower app"', 'license = "Apache-2.0"', ""]
    return "\n".join([*lines, *app_section()]) + "\n"


def app_section() -> list[str]:
    """Return the lines of ``[tool.flwr.app]``, with every key of the run configuration."""
    keys = ["config", "set", "out", *SimulationConfig.model_fields]
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
