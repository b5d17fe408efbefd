"""`Simulation`: the parts that a configuration names, put together and run."""

from __future__ import annotations

from collections.abc import Callable
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


def _of_world(name: str, what: str) -> Any:
    """Return a read-only attribute that stands for one of the world's."""
    return property(lambda simulation: getattr(simulation.world, name), doc=what)


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

    dataset: Dataset = _of_world("dataset", "The data.")
    strategy: Any = _of_world("strategy", "What aggregates, or trains parties.")
    attack: Any = _of_world("attack", "What malicious clients do.")
    device: Any = _of_world("device", "Where models live.")
    federation: Any = _of_world("federation", "Data and roles of a horizontal run.")
    trainer: Any = _of_world("trainer", "Trains any client of a horizontal run.")
    model: Any = _of_world("model", "The network that clients train.")
    server_model: Any = _of_world("server_model", "The network that the server evaluates.")
    test_x: Any = _of_world("test_x", "Test examples as the model sees them.")
    test_y: Any = _of_world("test_y", "Their labels.")
    triggered: Any = _of_world("triggered", "Triggered test examples, with their labels.")
    plan: Any = _of_world("plan", "How clients are trained, once the run has started.")

    def run(
        self,
        out: Path,
        *,
        resume: bool = False,
        on_round: RoundListener = lambda _: None,
        grid: Grid | None = None,
        on_opening: Callable[[str], None] = lambda _: None,
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
        on_opening : callable
            Called before round 1 with a line on what the run will need, if there is anything to
            say.

        Raises
        ------
        RunError
            If the run cannot go on, or no client ever sent a usable reply.
        """
        if grid is None:
            self.world.settle(out, resume=resume)
            for line in self._opening(out):
                on_opening(line)
        return Execution(self.world, out, resume, on_round, grid).execute()

    def _opening(self, out: Path) -> list[str]:
        tell = getattr(self.world, "opening", None)
        lines: list[str] = tell(out) if tell is not None else []
        return lines
