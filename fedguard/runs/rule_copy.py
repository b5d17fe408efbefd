"""The deployed rule as an attacker rehearses it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from fedguard.assembly.strategy import create_strategy
from fedguard.config import SimulationConfig
from fedguard.grids.veil import Handles
from fedguard.traits import traits_of
from fedguard.updates import ClientUpdates, Verdict


class RuleCopy:
    """A copy of a rule that answers as the deployed one would.

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

    def __init__(self, config: SimulationConfig, rule: Any, handles: Handles | None) -> None:
        self._rule, self._handles = rule, handles
        copy: Any = create_strategy(config)
        copy.pre = rule.pre
        copy.layout, copy.tools = rule.layout, rule.tools
        self._copy = copy

    def __call__(self, updates: ClientUpdates) -> Tensor:
        """Return the (D,) delta of one round."""
        return self.verdicts([updates])[0].delta

    def verdicts(self, rounds: Sequence[ClientUpdates]) -> list[Verdict]:
        """Return what is decided in rounds that follow each other, each with all before it."""
        remembered = self._rule.state()
        self._copy.load_state({name: value.clone() for name, value in remembered.items()})
        return [self._copy.decide(self._veiled(updates)) for updates in rounds]

    def _veiled(self, updates: ClientUpdates) -> ClientUpdates:
        if self._handles is None:
            return updates
        return replace(updates, node_ids=tuple(self._handles.of(n) for n in updates.node_ids))


def copy_of_rule(config: SimulationConfig, rule: Any, handles: Handles | None) -> RuleCopy | None:
    """Return a copy to rehearse on; None for a rule without copies."""
    return RuleCopy(config, rule, handles) if traits_of(rule).copyable else None
