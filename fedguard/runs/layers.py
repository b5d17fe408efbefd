"""`Layers`: what lies between a run's strategy and the grid that reaches its clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.serverapp import Grid
from torch import Tensor

from fedguard.assembly.make import attacks_in
from fedguard.attacks.base import Attack
from fedguard.attacks.toolkit.schedule import parse_schedule
from fedguard.clients.training import ClientTrainer
from fedguard.config import SimulationConfig
from fedguard.enrolment.base import EnrolledGrid, Enrolment, TicketedGrid
from fedguard.grids.adversarial import AdversarialGrid
from fedguard.grids.faulty import FaultyGrid
from fedguard.grids.history import History
from fedguard.grids.veil import Handles, VeiledGrid
from fedguard.runs.deployment import is_hidden
from fedguard.runs.observed import Outcome, unveiled
from fedguard.runs.records import client_records
from fedguard.runs.rule_copy import copy_of_rule
from fedguard.traits import traits_of


class Layers:
    """The layers around the grid of one execution, and what only they know.

    From the clients outwards: the coalition, the clients' tickets, the network that fails, the
    clients' other side (encryption), admission, the veil over who they are. Real clients encrypt
    for themselves: what they send is handed on.

    Parameters
    ----------
    config : SimulationConfig
        The run.
    strategy : object
        What aggregates.
    attack : Attack
        What malicious clients do.
    trainer : ClientTrainer
        Trains clients; knows who they are.
    enrolment : Enrolment or None
        How clients are admitted.
    faults : mapping of str to Tensor
        State of the network that fails, from a checkpoint; empty at a run's beginning.

    Attributes
    ----------
    history : History
        The models that rounds started from.
    """

    def __init__(
        self,
        config: SimulationConfig,
        strategy: Any,
        attack: Attack,
        trainer: ClientTrainer,
        enrolment: Enrolment | None,
        faults: Mapping[str, Tensor],
    ) -> None:
        self.config = config
        self.strategy = strategy
        self.attack = attack
        self.trainer = trainer
        self.federation = trainer.federation
        self.enrolment = enrolment
        self.history = History()
        # Requests to unlearn name clients, and parties to encryption sign as what they are.
        declared = traits_of(strategy)
        named = declared.requests or declared.client_side
        self.handles = None if named else Handles(config.seed)
        self._faulty: FaultyGrid | None = None
        self._faults = faults

    @property
    def nameless(self) -> bool:
        """Whether not even this process knows who sent what."""
        return self.enrolment is not None and self.enrolment.deployable

    def attacking(self, server_round: int) -> bool:
        """Return whether malicious clients attack in a round."""
        return attacks_in(self.config, server_round)

    def around(self, grid: Grid) -> Grid:
        """Return the grid that the strategy sees."""
        declared = traits_of(self.strategy)
        adversary = self._coalition(grid)
        inner: Grid = adversary
        # Clients that encrypt sign what they send then, which is made further out.
        if self.enrolment is not None and not declared.client_side:
            inner = TicketedGrid(adversary, self.enrolment)
        hidden = is_hidden(self.strategy, grid)
        outer = grid if hidden else self._with_faults(inner)
        if declared.rule and not hidden:
            outer = self.strategy.client_side(outer)
        gathered = self.enrolment.gather(grid) if self.enrolment is not None else None
        if gathered is not None:
            outer = gathered
        elif self.enrolment is not None:
            ticketed = inner if isinstance(inner, TicketedGrid) else None
            outer = EnrolledGrid(outer, self.enrolment, ticketed)
        return outer if self.handles is None else VeiledGrid(outer, self.handles)

    def _coalition(self, grid: Grid) -> AdversarialGrid:
        """Return the grid with malicious clients on it."""
        config, trainer = self.config, self.trainer
        copied = copy_of_rule(config, self.strategy, self.handles)
        device = trainer.model.vector.device
        return AdversarialGrid(
            grid,
            self.attack,
            self.federation.malicious,
            config.seed,
            scope=config.attack_knowledge,
            attacking=self.attacking,
            defence=config.strategy.name,
            aggregate=copied,
            verdicts=None if copied is None else copied.verdicts,
            history=self.history,
            prepare=lambda current, sent: trainer.prepare(current, sent.to(device)),
            joined=parse_schedule(config.attack_rounds).joined,
        )

    def _with_faults(self, grid: Grid) -> Grid:
        """Return the grid behind a network that fails as configured."""
        if not self.config.faults.active:
            return grid
        self._faulty = FaultyGrid(grid, self.config.faults, self.config.seed)
        if self._faults:
            self._faulty.load_state(self._faults)
        return self._faulty

    # --- what only the layers know ----------------------------------------------------------------

    def unveiled(self, outcome: Outcome) -> Outcome:
        """Return a round's outcome by clients' own numbers."""
        return outcome if self.handles is None else unveiled(outcome, self.handles)

    def client_of(self, node: int) -> int:
        """Return the client whom the strategy knows as `node`."""
        return node if self.handles is None else self.handles.client(node)

    def counts(self) -> dict[str, Any]:
        """Return how often the network failed in the last round; nothing where it cannot."""
        return {} if self._faulty is None else {"faults": self._faulty.counts}

    def state(self) -> dict[str, Tensor]:
        """Return what must survive a crash."""
        return self._faulty.state() if self._faulty is not None else {}

    def client_records(self, outcome: Outcome) -> list[dict[str, Any]]:
        """Return one record per client that was asked in a round; see ``clients.jsonl``."""
        records = client_records(outcome, self.federation.malicious, self.federation.poisoned)
        if self.enrolment is not None and not self.enrolment.named:
            for record in records:
                # All that the aggregator knows of the sender.
                record["handle"] = self.enrolment.handle_of(record["client"], outcome.server_round)
                if self.nameless:
                    record["malicious"] = None
                    record.pop("poisoned", None)
        if self._faulty is not None:
            for record in records:
                # The truth about the network, which the server does not know.
                record["fault"] = self._faulty.truth.get(record["client"])
        return records
