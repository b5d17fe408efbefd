"""`World`: what differs between runs whose clients hold rows and those whose hold columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedguard.config import SimulationConfig
from fedguard.data.dataset import Dataset
from fedguard.records.checkpoints import Checkpoint
from fedguard.runs.judging import Judge
from fedguard.tasks.base import Task

RoundListener = Callable[[dict[str, Any]], None]
"""Called with each round's record."""

Record = Callable[[int, Mapping[str, Any], list[dict[str, Any]]], None]
"""Called after a round with its number, its figures, and its clients' records."""


class World(Protocol):
    """The parts of one run, and what happens in a round; records and files are not its concern."""

    config: SimulationConfig
    dataset: Dataset
    task: Task

    @property
    def strategy(self) -> Strategy:
        """What aggregates, or trains parties."""

    @property
    def size(self) -> int:
        """Parameters that a checkpoint holds, for the check of disk space."""

    @property
    def judge(self) -> Judge | None:
        """What says which round's model is the best; None where none is kept."""

    def bound_to(self, planned: int, done: int) -> str:
        """Return why rounds that are done would be others with another number of rounds.

        Parameters
        ----------
        planned : int
            How many were planned when they were done.
        done : int
            How many are done.

        Returns
        -------
        str
            The reason in a few words, empty if there is none.
        """

    def settle(self, out: Path, *, resume: bool) -> None:
        """Decide what is measured on this machine, before a run of its own engine."""

    def open(self, out: Path, checkpoint: Checkpoint | None) -> None:
        """Prepare an execution that writes into `out`, from its beginning or from a checkpoint."""

    def check_deployed(self) -> None:
        """Refuse what means nothing, or something else, where clients are machines of their own."""

    def serve(self, grid: Grid, record: Record) -> None:
        """Run what is left of the rounds on a grid; call `record` after each of them."""

    def serve_here(self, record: Record) -> None:
        """Run what is left of the rounds with clients of this process, or of Ray's."""

    def state(self, server_round: int, seconds: float) -> Checkpoint | None:
        """Return what must survive a crash; None where it cannot be had."""

    def threat_model(self) -> dict[str, Any]:
        """Return what the attacker knows and controls, what the defence assumes and measures."""

    def tensors(self) -> dict[str, Tensor]:
        """Return what ``model.safetensors`` holds, by name."""

    def finish(self) -> None:
        """Do what comes after the last round."""

    def summary(self, rounds: list[dict[str, Any]], clients: Path) -> dict[str, Any]:
        """Return what the summary says of this world, from the records of the rounds."""
