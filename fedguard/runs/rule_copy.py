"""The deployed rule as an attacker rehearses it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from fedguard.assembly.strategy import create_strategy
from fedguard.config import SimulationConfig
from fedguard.grids.veil import Handles
from fedguard.traits import traits_of
from fedguard.updates import ClientUpdates


def copy_of_rule(
    config: SimulationConfig, rule: Any, handles: Handles | None
) -> Callable[[ClientUpdates], Tensor] | None:
    """Return what a rule would answer to updates, (D,), on a copy; None for one without copies.

    Every rehearsal starts from what the deployed rule remembers at that moment, of the nodes as it
    knows them, and leaves no trace: a try is no round.

    Parameters
    ----------
    config : SimulationConfig
        The run.
    rule : object
        The deployed strategy.
    handles : Handles or None
        By which ids it knows the clients; None where by their numbers.
    """
    if not traits_of(rule).copyable:
        return None
    copy: Any = create_strategy(config)
    copy.pre = rule.pre
    copy.layout, copy.tools = rule.layout, rule.tools

    def rehearse(updates: ClientUpdates) -> Tensor:
        copy.load_state({name: value.clone() for name, value in rule.state().items()})
        if handles is not None:
            updates = replace(updates, node_ids=tuple(handles.of(n) for n in updates.node_ids))
        answer: Tensor = copy.decide(updates).delta
        return answer

    return rehearse
