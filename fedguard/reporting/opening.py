"""What a run will do, in two lines: who attacks how and who defends; on what and for how long."""

from __future__ import annotations

from fedguard import registry
from fedguard.config import SimulationConfig
from fedguard.config.parts import Part
from fedguard.reporting.wording import bounded, counted

LINE = 79
"""Most characters of a line, so that it fits a terminal of 80 columns."""


def opening_lines(config: SimulationConfig) -> tuple[str, str]:
    """Return who attacks how against whom, and the data and the length of the run.

    Parameters
    ----------
    config : SimulationConfig
        The run.

    Returns
    -------
    tuple of str
        Two lines of at most 79 characters.
    """
    vertical = registry.is_vertical(config.strategy.name)
    lines = (_parties(config), _epochs(config)) if vertical else (_sides(config), _ground(config))
    return bounded(lines[0], LINE), bounded(lines[1], LINE)


def _sides(config: SimulationConfig) -> str:
    """Return ``sign-flip(scale=4.0) by 4 of 20 clients against nnm, krum``."""
    defence = ", ".join(part.name for part in (*config.pre, config.strategy))
    others = [f"repair {config.repair.name}"] if config.repair else []
    others += [f"enrolment {config.enrolment.name}"] if config.enrolment else []
    behind = "".join(f", {other}" for other in others)
    liars = round(config.malicious * config.clients)
    if config.attack.name == "none" or not liars:
        return f"no attack: {counted(config.clients)} under {defence}{behind}"
    crowd = f"{liars} of {counted(config.clients)}"
    return f"{_spelt(config.attack)} by {crowd} against {defence}{behind}"


def _ground(config: SimulationConfig) -> str:
    """Return ``digits, dirichlet(alpha=0.5) split, mlp, 20 rounds, seed 0``."""
    asked = f" with {100 * config.fraction:g} % of them" if config.fraction < 1.0 else ""
    length = f"{counted(config.rounds, 'round')}{asked}"
    split = f"{_spelt(config.partition)} split"
    start = f", from {config.start_from}" if config.start_from else ""
    data = _spelt(config.dataset)
    return f"on {data}, {split}, {config.model.name}, {length}, seed {config.seed}{start}"


def _parties(config: SimulationConfig) -> str:
    """Return ``lying-cost among 5 parties against opus-vfl``."""
    if config.attack.name == "none":
        return f"no attack: {config.clients} parties under {config.strategy.name}"
    among = f"among {config.clients} parties"
    return f"{_spelt(config.attack)} {among} against {config.strategy.name}"


def _epochs(config: SimulationConfig) -> str:
    """Return ``on digits, each party with other features, 20 rounds, seed 0``."""
    length = counted(config.rounds, "round")
    data = _spelt(config.dataset)
    return f"on {data}, each party with other features, {length}, seed {config.seed}"


def _spelt(part: Part) -> str:
    """Return a part with the arguments that were given, cut where they are many."""
    words = ", ".join(f"{name}={value}" for name, value in part.arguments.items())
    return f"{part.name}({bounded(words, 30)})" if words else part.name
