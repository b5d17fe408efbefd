"""`Memories`: what clients' training rules remember, from one execution of a run to the next."""

from __future__ import annotations

from collections.abc import Iterable

from flwr.serverapp import Grid
from torch import Tensor

from fedguard.clients.training import ClientTrainer
from fedguard.config import SimulationConfig
from fedguard.errors import RunError
from fedguard.nodes.memory import NodeMemories, as_state, of_state
from fedguard.records.checkpoints import Checkpoint


class Memories:
    """The memories of a run's clients, in this process or on simulated nodes of Flower's.

    Parameters
    ----------
    config : SimulationConfig
        The run.
    trainer : ClientTrainer
        Holds the memories; gets those of the checkpoint.
    checkpoint : Checkpoint or None
        Where the run goes on; None at its beginning.

    Raises
    ------
    RunError
        If clients would have forgotten what their rule remembers.
    """

    def __init__(
        self, config: SimulationConfig, trainer: ClientTrainer, checkpoint: Checkpoint | None
    ) -> None:
        self.trainer = trainer
        self._kept = config.client_app is None and trainer.rule.remembers
        self._nodes: NodeMemories | None = None
        if checkpoint is None:
            return
        trainer.memories = of_state(checkpoint.client_state)
        if self._kept and not checkpoint.client_state:
            raise RunError(
                f"the checkpoint of round {checkpoint.server_round} holds no memory of clients, "
                f"which training {config.training.name} needs; start again with another --out"
            )

    def hand_back(self, grid: Grid) -> None:
        """Give simulated nodes what their clients remember; they are asked for it from then on."""
        if self._kept:
            self._nodes = NodeMemories(grid)
            self._nodes.hand_back(self.trainer.memories)

    def fetch(self, asked: Iterable[int]) -> None:
        """Take what the clients that were asked in a round remember now, where nodes keep it."""
        if self._nodes is not None:
            self.trainer.memories.update(self._nodes.fetch(asked))

    def state(self) -> dict[str, Tensor]:
        """Return what must survive a crash."""
        return as_state(self.trainer.memories)
