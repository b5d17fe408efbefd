"""What the RNP alarm says of the repair table's last models: those with a backdoor, and clean ones.

    python -m simulations.repair_table --data-dir DIR --small --alarm

An audit changes nothing in a run before its first alarm, so that a look at the last model is what
``--repair-at alarm`` with ``audit.every`` equal to the number of rounds goes by.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from simulations.common import markdown_table

AT_LEAST = 0.6
"""The audit's own threshold."""


def looked(values: Mapping[str, Any], folder: Path) -> tuple[int, float]:
    """Return which class a federation's last model is left with, and how strongly."""
    from safetensors.torch import load_file

    from fedguard.assembly.make import server_tools
    from fedguard.config import parse
    from fedguard.randomness import SERVER, generator
    from fedguard.runs.simulation import Simulation
    from fedguard.strategies.toolkit.forgetting import Climb, chance, forget

    config = parse(values)
    world: Any = Simulation(config).world
    state = load_file(folder / config.digest()[:16] / "model.safetensors")
    world.server_model.module.load_state_dict(state)
    tools = server_tools(config, world.dataset, world.federation, world.server_model)
    stream = generator(config.seed, config.rounds, SERVER, "audit rnp-alarm")
    found = forget(tools, tools.x, tools.y, Climb(), chance(tools.num_classes), stream)
    return found.label, found.confidence


def section(models: Iterable[tuple[bool, str, Mapping[str, Any]]], folder: Path) -> str:
    """Look at models; return one row for each, and how often the alarm would have gone off.

    Parameters
    ----------
    models : iterable of tuple
        Whether it has a backdoor, what it is called, and its run's fields.
    folder : Path
        Their run directories.
    """
    rows: list[list[str]] = []
    alarms: dict[bool, list[bool]] = {True: [], False: []}
    for attacked, name, values in models:
        label, confidence = looked(values, folder)
        alarms[attacked].append(confidence >= AT_LEAST)
        told = "backdoor" if attacked else "clean"
        off = "alarm" if confidence >= AT_LEAST else "-"
        rows.append([told, name, str(values["seed"]), str(label), f"{confidence:.2f}", off])
    header = ("model", "federation", "seed", "class left", "confidence", "alarm")
    told = ", ".join(
        f"{sum(each)} of {len(each)} {'with a backdoor' if attacked else 'clean ones'}"
        for attacked, each in alarms.items()
    )
    return f"{markdown_table(header, rows)}\n\nAlarms: {told}; the target is class 0."
