"""The strategy whose rule aggregates inside `SoUL`."""

from __future__ import annotations

from typing import Any

from fedguard import registry
from fedguard.errors import ConfigurationError
from fedguard.strategies.base import RobustStrategy
from fedguard.traits import traits_of


def make_inner_rule(
    name: str, arguments: dict[str, Any], assumed_malicious: float, seed: int
) -> RobustStrategy:
    """Make a strategy whose rule may aggregate; refuse what unlearning cannot hold.

    Who forgets must see each client's update and instruct the clients itself, so a rule whose
    clients have another side, or that takes requests of its own, cannot be inside.

    Parameters
    ----------
    name : str
        Registered strategy.
    arguments : dict
        Its constructor arguments.
    assumed_malicious : float
        Handed to rules that need a bound.
    seed : int
        Handed to rules that draw.

    Raises
    ------
    ConfigurationError
        If it is none of fedguard's rules, or one that does not fit.
    """
    known = registry.parameters(registry.find("strategy", name))
    decided = {"seed": seed, "assumed_malicious": assumed_malicious}
    filled = {key: value for key, value in decided.items() if key in known}
    rule = registry.create("strategy", name, **{**filled, **arguments})
    allowed = "a fedguard rule that sees each client's update, such as fedavg or geminiguard"
    if not isinstance(rule, RobustStrategy):
        raise ConfigurationError("rule", name, allowed)
    traits = traits_of(rule)
    if traits.client_side or traits.requests:
        raise ConfigurationError("rule", name, allowed)
    return rule
