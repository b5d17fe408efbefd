"""`Simulation`: the parts that a configuration names, put together and run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flwr.serverapp import Grid
from torch import Tensor

from fedguard import registry
from fedguard.assembly.capacity import check_memory
from fedguard.assembly.make import (
    check_client_app,
    load_dataset,
    make_attack,
    make_federation,
    make_model,
    make_strategy,
    make_trainer,
)
from fedguard.attacks.toolkit.schedule import parse_schedule
from fedguard.clients.planner import Plan, settle
from fedguard.config import SimulationConfig
from fedguard.models.device import resolve_device
from fedguard.models.flat import FlatModel
from fedguard.runs.execution import Execution, RoundListener


class Simulation:
    """One run, from a checked configuration to a run directory.

    Making it loads the data, divides them, builds model, attack and strategy, and so finds every
    error of the configuration before the first round.

    Parameters
    ----------
    config : SimulationConfig
        The run.

    Raises
    ------
    ConfigurationError
        If a part cannot be made or two parts do not fit.
    """

    def __new__(cls, config: SimulationConfig) -> Any:
        """Return a `VerticalSimulation`, which has the same interface, for a vertical strategy."""
        if registry.is_vertical(config.strategy.name):
            from fedguard.vertical.world import VerticalSimulation

            return VerticalSimulation(config)
        return super().__new__(cls)

    def __init__(self, config: SimulationConfig) -> None:
        self.config = config
        parse_schedule(config.attack_rounds)
        self.device = resolve_device(config.device)
        self.dataset = load_dataset(config)
        self.attack = make_attack(config, self.dataset)
        check_client_app(config, self.attack)
        check_memory(config, self.dataset)
        self.federation = make_federation(config, self.dataset, self.attack, self.device)
        self.model = make_model(config, self.dataset).to(self.device)
        self.server_model = FlatModel(make_model(config, self.dataset).to(self.device))
        self.strategy = make_strategy(config, self.dataset, self.federation, self.server_model)
        x = self.dataset.x_test
        self.test_x = self.federation.normalise(x)
        self.test_y = self.dataset.y_test.to(self.device)
        self.triggered = self.make_triggered()
        self.trainer = make_trainer(config, self.model, self.federation)
        self.plan: Plan | None = None

    def make_triggered(self) -> tuple[Tensor, Tensor] | None:
        """Return triggered test examples of the classes that a backdoor does not aim at."""
        if not self.attack.backdoor or self.attack.target_class is None:
            return None
        rows = self.dataset.y_test != self.attack.target_class
        x = self.attack.trigger(self.dataset.x_test[rows])
        return self.federation.normalise(x), self.dataset.y_test[rows].to(self.device)

    def run(
        self,
        out: Path,
        *,
        resume: bool = False,
        on_round: RoundListener = lambda _: None,
        grid: Grid | None = None,
    ) -> dict[str, Any]:
        """Run all rounds and write the run directory; return the summary.

        Parameters
        ----------
        out : Path
            Run directory.
        resume : bool
            Go on from the newest checkpoint in `out`, if there is one.
        on_round : callable
            Called with each round's record.
        grid : Grid, optional
            Where clients run, in place of the configured engine; its node ids are client ids.
        """
        if grid is None and self.config.client_app is None:
            self.config, self.plan = settle(self.config, self.trainer, out, resume=resume)
        return Execution(self, out, resume, on_round, grid).execute()
