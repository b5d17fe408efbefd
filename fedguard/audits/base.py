"""`Audit`: looks at the global model of a round and says what it found; changes nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedguard.clients.federation import Federation
from fedguard.config import SimulationConfig
from fedguard.models.flat import FlatModel
from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.tasks.base import Task
from fedguard.traits import Traits


@dataclass(frozen=True)
class Scene:
    """A run as its audits see it: they are the researcher's, and may know the truth.

    Attributes
    ----------
    config : SimulationConfig
        The run.
    out : Path
        Its directory.
    rounds_done : int
        Rounds that an earlier execution finished.
    strategy : Strategy
        What aggregates.
    federation : Federation
        Data and roles.
    task : Task
        What is learnt.
    model : FlatModel
        A model of the federation's architecture; an audit may load any vector into it.
    device : torch.device
        Where the model is.
    test : tuple of Tensor
        Test examples as the model sees them, and their labels.
    triggered : tuple of Tensor or None
        Triggered test examples of the classes that a backdoor does not aim at, and their labels.
    tools : ServerTools or None
        What the server holds; None where it holds no examples.
    fresh : callable
        Returns an untrained model whose initial weights depend on the run's seed and a number.
    client_of : callable
        Returns whose node id, as the strategy sees it, is: the client's number.
    """

    config: SimulationConfig
    out: Path
    rounds_done: int
    strategy: Strategy
    federation: Federation
    task: Task
    model: FlatModel
    device: torch.device
    test: tuple[Tensor, Tensor]
    triggered: tuple[Tensor, Tensor] | None
    tools: ServerTools | None
    fresh: Callable[[int], FlatModel]
    client_of: Callable[[int], int] = lambda node: node


class Audit(ABC):
    """One look at the global model per round; a run is the same with and without it."""

    traits: ClassVar[Traits] = Traits()
    """What the audit needs of the server, and which tasks it serves."""

    columns: ClassVar[bool] = False
    """Whether its figures also stand in the lines of ``rounds.jsonl``."""

    def open(self, scene: Scene) -> None:
        """Learn of the run before its first round."""
        self.scene = scene

    def due(self, server_round: int, rounds: int) -> bool:
        """Return whether a round's model is looked at; the last one by default."""
        return server_round == rounds

    @abstractmethod
    def look(self, server_round: int, vector: Tensor, rng: torch.Generator) -> Mapping[str, Any]:
        """Return what is found in the (D,) global model of a round, by name; may be empty."""

    def alarm(self, figures: Mapping[str, Any]) -> bool:
        """Return whether figures call for a repair (``repair_at: alarm``)."""
        return False

    def finish(self) -> Mapping[str, Any]:
        """Return what the summary says, after the last round."""
        return {}
