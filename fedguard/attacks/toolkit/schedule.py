"""When the coalition attacks: all rounds, a window, random rounds or one shot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fedguard.errors import ConfigurationError, check_number
from fedguard.randomness import SERVER, generator

_FIELD = "attack_rounds"
_ALLOWED = "all, {window: [first, last]}, {probability: 0 to 1}, {single: round} or {join: round}"


@dataclass(frozen=True)
class Schedule:
    """The rounds in which the coalition attacks.

    Attributes
    ----------
    first, last : int
        First and last round of the attack, from 1; no last round if None.
    probability : float
        Chance with which it attacks in each of them, drawn from a stream of the run's seed and
        the round, so that a resumed run attacks in the same rounds.
    join : int
        Round from which the coalition's clients are part of the federation, from 1; before it
        they do not answer.
    """

    first: int = 1
    last: int | None = None
    probability: float = 1.0
    join: int = 1

    def joined(self, server_round: int) -> bool:
        """Return whether the coalition's clients are part of the federation in a round."""
        return server_round >= self.join

    def active(self, server_round: int, seed: int) -> bool:
        """Return whether the coalition attacks in a server round of a run with this seed."""
        if server_round < max(self.first, self.join) or (
            self.last is not None and server_round > self.last
        ):
            return False
        if self.probability >= 1.0:
            return True
        stream = generator(seed, server_round, SERVER, "attack schedule")
        return float(torch.rand((), generator=stream)) < self.probability


def parse_schedule(value: Any) -> Schedule:
    """Return the schedule that a configuration names.

    Parameters
    ----------
    value : Any
        ``"all"``, ``{"window": [5, 10]}``, ``{"probability": 0.3}``, ``{"single": 7}``,
        ``{"join": 5}``, or a window, a probability and a round of joining together. A window that
        begins late is a coalition with a long honest history; one that joins late has none.

    Raises
    ------
    ConfigurationError
        If it is anything else.
    """
    if isinstance(value, Schedule):
        return value
    if value is None or value == "all":
        return Schedule()
    if not isinstance(value, Mapping) or not value:
        raise ConfigurationError(_FIELD, value, _ALLOWED)
    keys = set(value)
    if keys == {"single"}:
        only = _round("single", value["single"])
        return Schedule(first=only, last=only)
    if not keys <= {"window", "probability", "join"}:
        raise ConfigurationError(_FIELD, value, _ALLOWED)
    first, last = _window(value["window"]) if "window" in keys else (1, None)
    probability = value.get("probability", 1.0)
    check_number(f"{_FIELD}.probability", probability, at_least=0.0, at_most=1.0)
    join = _round("join", value["join"]) if "join" in keys else 1
    return Schedule(first, last, float(probability), join)


def _window(value: Any) -> tuple[int, int]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ConfigurationError(f"{_FIELD}.window", value, "two rounds, [first, last]")
    first, last = (_round("window", entry) for entry in value)
    if last < first:
        raise ConfigurationError(
            f"{_FIELD}.window", list(value), "a last round not before the first"
        )
    return first, last


def _round(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{_FIELD}.{name}", value, "a round number from 1")
    return value
