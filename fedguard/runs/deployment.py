"""What a deployment cannot do where the server does not see its clients' updates."""

from __future__ import annotations

from typing import Any

from flwr.serverapp import Grid

from fedguard.attacks.base import Attack
from fedguard.clients.federation import Federation
from fedguard.config import SimulationConfig
from fedguard.errors import ConfigurationError
from fedguard.nodes.encrypting import undeployable
from fedguard.traits import traits_of


def is_hidden(strategy: Any, grid: Grid) -> bool:
    """Return whether a grid's clients are real ones and encrypt for themselves."""
    deployed = getattr(grid, "deployed", False)
    return bool(deployed) and traits_of(strategy).visible != "updates"


def check_deployable(
    config: SimulationConfig, strategy: Any, attack: Attack, federation: Federation | None
) -> None:
    """Refuse, before round 1, what real clients cannot do or would do otherwise than simulated.

    Parameters
    ----------
    config : SimulationConfig
        The run.
    strategy, attack : Any and Attack
        Its parts.
    federation : Federation or None
        Who is malicious; None in a world without.

    Raises
    ------
    ConfigurationError
        If the strategy encrypts in simulations alone; if malicious clients would have to conspire,
        or to see what others send, under encryption; if faults are simulated, or clients enrolled
        under no name, under encryption.
    """
    if not traits_of(strategy).deployable:
        raise undeployable(config)
    if traits_of(strategy).visible == "updates" or federation is None:
        return
    if config.enrolment is not None:
        told = f"none in a deployment with {config.strategy.name}: its clients answer often"
        raise ConfigurationError("enrolment", config.enrolment.name, told)
    if config.faults.active:
        raise ConfigurationError(
            "faults", "on", "off: the server cannot simulate faults of replies that it cannot read"
        )
    if "updates" in attack.needs and not attack.alone and federation.malicious:
        _check_alone(config, attack, len(federation.malicious))


def _check_alone(config: SimulationConfig, attack: Attack, malicious: int) -> None:
    name = config.attack.name
    where = "in a deployment under encryption, where clients have no channel to conspire over"
    if "aggregate" in attack.needs:
        raise ConfigurationError("attack", name, f"one that needs no copy of the rule, {where}")
    if config.attack_knowledge == "full":
        raise ConfigurationError("attack_knowledge", "full", f"partial, {where}")
    if malicious > 1:
        raise ConfigurationError(
            "malicious",
            config.malicious,
            f"a fraction that makes one client malicious, not {malicious}, with attack {name}, "
            f"which crafts updates together, {where}; or another attack, such as sign-flip",
        )
