"""`Measuring`: what is measured of a round's model, on the test set, by a judge, per client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fedguard.attacks.base import Attack
from fedguard.attacks.base import Scene as AttackScene
from fedguard.attacks.toolkit.schedule import parse_schedule
from fedguard.clients.federation import Federation
from fedguard.config import SimulationConfig
from fedguard.metrics.lifespan import lifespan
from fedguard.records import writer as files
from fedguard.records.writer import read_jsonl
from fedguard.runs.client_evaluation import ClientEvaluation, OwnModel
from fedguard.runs.course import JUDGED
from fedguard.runs.judging import ATTACK, Judge

MOST_CLASSES = 50
"""A confusion matrix of more classes is not kept in the summary."""


class Measuring:
    """Measures the server's model after every round.

    Parameters
    ----------
    config : SimulationConfig
        The run.
    federation : Federation
        Data, task and roles.
    attack : Attack
        Its success is measured.
    module : nn.Module
        The network that is measured; whoever calls `measure` loads a model into it first.
    shared : str
        Which part uses the server's rows beside the judge; empty if none does.

    Attributes
    ----------
    test : tuple of Tensor
        Test examples as the model sees them, and their labels.
    triggered : tuple of Tensor or None
        Triggered test examples of the classes that a backdoor does not aim at, and their labels.
    """

    def __init__(
        self,
        config: SimulationConfig,
        federation: Federation,
        attack: Attack,
        module: nn.Module,
        shared: str,
    ) -> None:
        self.federation, self.attack, self.module = federation, attack, module
        self.task = federation.task
        data = federation.dataset
        self.test = (federation.normalise(data.x_test), data.y_test.to(federation.device))
        self.triggered = self._triggered_of(data.x_test, data.y_test)
        self.judge = Judge.of(config, federation, attack, self._triggered_of, shared)
        share = config.evaluate_clients
        self.clients = ClientEvaluation(federation, share) if share else None
        self.schedule = parse_schedule(config.attack_rounds)
        self.untrained = config.start_from is None
        self._found: Mapping[str, Any] = {}
        if config.best_by == ATTACK:
            self.judge.check(module, self._on_test())
            self._found = {}

    def _triggered_of(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return triggered examples of the classes that a backdoor does not aim at."""
        if not self.attack.backdoor or self.attack.target_class is None:
            return None
        rows = y != self.attack.target_class
        stamped = self.attack.trigger(x[rows])
        return self.federation.normalise(stamped), y[rows].to(self.federation.device)

    def stamp_anew(self) -> None:
        """Stamp the test examples with a trigger that has changed."""
        data = self.federation.dataset
        self.triggered = self._triggered_of(data.x_test, data.y_test)

    def _on_test(self) -> dict[str, Any]:
        self._found = self.task.evaluate(self.module, *self.test)
        scene = AttackScene(self.module, self._found, self.triggered)
        return {**self._found, **self.attack.measure(scene)}

    def measure(self, own: OwnModel | None = None) -> dict[str, Any]:
        """Return the figures of the model that is loaded, as ``rounds.jsonl`` holds them.

        Parameters
        ----------
        own : callable, optional
            Loads and returns the model that a client uses, where that is not the global one.
        """
        found = self._on_test()
        told = {name: value for name, value in found.items() if not isinstance(value, Tensor)}
        told[JUDGED] = self.judge.measure(self.module, found)
        if self.clients is not None:
            told.update(self.clients.measure(self.module, own))
        return told

    def summary(self, out: Path, last: int) -> dict[str, Any]:
        """Return what the summary says of the model that is loaded, the last one.

        Parameters
        ----------
        out : Path
            Run directory.
        last : int
            The last round.
        """
        told: dict[str, Any] = {}
        if "confusion" not in self._found:
            self._on_test()
        confusion = self._found.get("confusion")
        if isinstance(confusion, Tensor) and len(confusion) <= MOST_CLASSES:
            told["confusion"] = confusion.tolist()
        if self.clients is not None:
            lines, clients = (read_jsonl(out / name) for name in (files.FAIRNESS, files.CLIENTS))
            told["fairness"] = self.clients.summary(lines, clients, last)
        return {**told, **self._outlived(out)}

    def _outlived(self, out: Path) -> dict[str, Any]:
        """Return how long the attack outlived attackers who stopped; nothing where none did."""
        until = self.schedule.last
        if until is None or not self.federation.malicious:
            return {}
        first = max(self.schedule.first, self.schedule.join)
        lines = read_jsonl(out / files.ROUNDS)
        found = lifespan(lines, first, until, untrained=self.untrained)
        return {} if found is None else {"lifespan": asdict(found)}
