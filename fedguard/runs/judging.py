"""`Judge`: by which figure, on which rows, a round's model is called better than another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fedguard.attacks.base import Attack
from fedguard.attacks.base import Scene as AttackScene
from fedguard.clients.federation import Federation
from fedguard.config import SimulationConfig
from fedguard.errors import ConfigurationError
from fedguard.records.reader import number
from fedguard.tasks.base import Task

ATTACK = "attack-success"

Triggered = Callable[[Tensor, Tensor], tuple[Tensor, Tensor] | None]
"""Returns triggered examples and labels of unscaled ones, None where the attack has no trigger."""


@dataclass(frozen=True)
class Judge:
    """Says how good a round's model is, so that the best one can be kept and a run can end early.

    The rows are the server's, which no client trains on and which are not in the test set. Where
    the server holds none, they are those of the test set: the figure of the model that is chosen
    is then flattering on the test set, and `told` says so.

    Attributes
    ----------
    figure : str
        What is judged by: the task's headline, or ``attack_success_rate``.
    higher_is_better : bool
        Which way is better; an attack's success is better the lower it is.
    rows : int
        How many of the server's rows are judged on; 0: the test set.
    shared : str
        Which part that trains or defends uses the server's rows as well; empty if none does.
    """

    figure: str
    higher_is_better: bool
    rows: int
    shared: str
    _task: Task
    _attack: Attack
    _federation: Federation
    _triggered: Triggered

    @classmethod
    def of(
        cls,
        config: SimulationConfig,
        federation: Federation,
        attack: Attack,
        triggered: Triggered,
        shared: str,
    ) -> Judge:
        """Return the judge of a run."""
        task, by_attack = federation.task, config.best_by == ATTACK
        return cls(
            figure="attack_success_rate" if by_attack else task.headline,
            higher_is_better=False if by_attack else task.higher_is_better,
            rows=len(federation.server_rows),
            shared=shared,
            _task=task,
            _attack=attack,
            _federation=federation,
            _triggered=triggered,
        )

    def check(self, module: nn.Module, on_test: Mapping[str, Any]) -> None:
        """Refuse a choice by an attack's success where nothing measures one.

        Raises
        ------
        ConfigurationError
            On ``best_by``, or on ``server_samples`` where the server's rows are too few for it.
        """
        if self.figure != "attack_success_rate" or self.measure(module, on_test) is not None:
            return
        if self.rows and _success(on_test) is not None:
            allowed = "0, or so many that the classes which the attack is about are among them"
            raise ConfigurationError("server_samples", self.rows, allowed)
        allowed = "headline; the attack neither has a trigger nor takes one class for another"
        raise ConfigurationError("best_by", ATTACK, allowed)

    def measure(self, module: nn.Module, on_test: Mapping[str, Any]) -> float | None:
        """Return the figure of a model; None where it has none, as a model that is destroyed.

        Parameters
        ----------
        module : nn.Module
            The model.
        on_test : mapping
            What is known of it on the test set, which is the answer where the server has no rows.
        """
        found = self._on_server_rows(module) if self.rows else on_test
        by_attack = self.figure == "attack_success_rate"
        return _success(found) if by_attack else number(found.get(self.figure))

    def _on_server_rows(self, module: nn.Module) -> dict[str, Any]:
        federation = self._federation
        x, y = federation.server_examples()
        found = dict(self._task.evaluate(module, x, y))
        if self.figure != "attack_success_rate":
            return found
        data, own = federation.dataset, federation.server_rows
        triggered = self._triggered(data.x_train[own], data.y_train[own])
        return {**found, **self._attack.measure(AttackScene(module, found, triggered))}

    @property
    def told(self) -> dict[str, Any]:
        """By what and where is judged, as the summary says it."""
        where = f"the server's {self.rows} rows" if self.rows else "the test set"
        if self.rows and self.shared:
            where += f", which {self.shared} uses as well"
        return {"by": self.figure, "judged_on": where, "held_out": bool(self.rows)}


def _success(figures: Mapping[str, Any]) -> float | None:
    """Return an attack's success: of a backdoor, or of a targeted label flip."""
    known = (number(figures.get(name)) for name in ("attack_success_rate", "source_to_target"))
    return next((value for value in known if value is not None), None)
