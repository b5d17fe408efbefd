"""`Simulation`: the parts that a configuration names, put together and run."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid

from fedguard import registry
from fedguard.config import SimulationConfig
from fedguard.data.dataset import Dataset
from fedguard.runs.execution import Execution
from fedguard.runs.world import RoundListener
from fedguard.traits import traits_of

WORLDS = {
    "horizontal": ("fedguard.runs.horizontal", "HorizontalWorld"),
    "vertical": ("fedguard.vertical.world", "VerticalWorld"),
}
"""The world of each kind of strategy; imported when one is run."""


class Simulation:
    """One run, from a checked configuration to a run directory.

    Making it makes the world that the strategy belongs to, and so finds every error of the
    configuration before the first round.

    Parameters
    ----------
    config : SimulationConfig
        The run.

    Raises
    ------
    ConfigurationError
        If a part cannot be made or two parts do not fit.

    Attributes
    ----------
    world : HorizontalWorld or VerticalWorld
        The parts.
    """

    def __init__(self, config: SimulationConfig) -> None:
        declared = traits_of(registry.find("strategy", config.strategy.name))
        module, name = WORLDS[declared.world]
        self.world: Any = getattr(import_module(module), name)(config)

    @property
    def config(self) -> SimulationConfig:
        """The run; a measured choice of executor is written into it when the run starts."""
        found: SimulationConfig = self.world.config
        return found

    @property
    def dataset(self) -> Dataset:
        """The data."""
        found: Dataset = self.world.dataset
        return found

    @property
    def strategy(self) -> Any:
        """What aggregates, or trains parties."""
        return self.world.strategy

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

        Raises
        ------
        RunError
            If the run cannot go on, or no client ever sent a usable reply.
        """
        if grid is None:
            self.world.settle(out, resume=resume)
        return Execution(self.world, out, resume, on_round, grid).execute()
