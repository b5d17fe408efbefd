"""From Flower's run and node configuration to fedguard's own."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context

from fedguard.config import SimulationConfig, assign, load_yaml, parse, read_setting
from fedguard.errors import ConfigurationError
from fedguard.grids.identity import PARTITION_KEY, SIZE_KEY

_NOT_FIELDS = ("config", "out", "set", "resume")


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


def resumes(run_config: Mapping[str, Any]) -> bool:
    """Return whether a run configuration asks to go on with the run in ``out``.

    Raises
    ------
    ConfigurationError
        If ``resume`` is neither true nor false, or no ``out`` says which run.
    """
    given = run_config.get("resume", "")
    if given == "" or given is False:
        return False
    if given is not True:
        raise ConfigurationError("resume", given, "true or false")
    if not run_config.get("out"):
        raise ConfigurationError("out", "", "the folder of the run to go on with")
    return True


def _existing(path: Path) -> Path:
    """Return a relative path as it is, or within the Flower app that is being run."""
    inside = (Path(folder) / path for folder in sys.path if folder)
    return path if path.exists() else next((p for p in inside if p.is_file()), path)
