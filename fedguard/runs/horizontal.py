"""`HorizontalWorld`: clients hold rows of the same features and train one model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from torch import Tensor

from fedguard.assembly.capacity import check_memory
from fedguard.assembly.make import (
    attacks_in,
    check_client_app,
    load_dataset,
    make_attack,
    make_audits,
    make_federation,
    make_model,
    make_repair,
    make_server_model,
    make_trainer,
    server_tools,
)
from fedguard.assembly.plain_state import StrangersState
from fedguard.assembly.stored_updates import check_room, stored_updates
from fedguard.assembly.strategy import make_strategy, train_config
from fedguard.attacks.toolkit.schedule import parse_schedule
from fedguard.audits.base import Scene
from fedguard.clients.planner import Plan, settle
from fedguard.config import SimulationConfig
from fedguard.enrolment.base import EnrolledGrid, TicketedGrid, check_deployed, make_enrolment
from fedguard.errors import ConfigurationError, RunError
from fedguard.grids.adversarial import AdversarialGrid
from fedguard.grids.faulty import FaultyGrid
from fedguard.grids.history import History
from fedguard.grids.update_room import UpdateRoom
from fedguard.grids.veil import Handles, VeiledGrid
from fedguard.models.device import resolve_device
from fedguard.models.flat import FlatModel
from fedguard.nodes.memory import NodeMemories, as_state, of_state
from fedguard.records import writer as files
from fedguard.records.checkpoints import Checkpoint
from fedguard.records.writer import Recorder
from fedguard.runs.deployment import is_hidden
from fedguard.runs.engines import local_grid
from fedguard.runs.judging import Judge
from fedguard.runs.length import bound_to, check_audits
from fedguard.runs.measuring import Measuring
from fedguard.runs.observed import ObservedStrategy, Outcome, unveiled
from fedguard.runs.personal import Personalised
from fedguard.runs.records import (
    aim,
    chosen_parts,
    client_records,
    left_out,
    split_told,
    threat_model,
)
from fedguard.runs.rule_copy import copy_of_rule
from fedguard.runs.tally import tally, total
from fedguard.runs.tending import Tending
from fedguard.runs.world import Record
from fedguard.traits import traits_of


class HorizontalWorld:
    """The parts of a run in which clients train one model; see `World`.

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

    def __init__(self, config: SimulationConfig) -> None:
        self.config = config
        parse_schedule(config.attack_rounds)
        self.device = resolve_device(config.device)
        self.dataset = load_dataset(config)
        self.attack = make_attack(config, self.dataset)
        check_client_app(config, self.attack)
        check_memory(config, self.dataset)
        self.federation = make_federation(config, self.dataset, self.attack, self.device)
        self.task = self.federation.task
        self.model = make_model(config, self.dataset).to(self.device)
        self.server_model = FlatModel(make_server_model(config, self.dataset).to(self.device))
        self.layout = self.server_model.layout
        self._strategy = make_strategy(config, self.dataset, self.federation, self.server_model)
        self.stored = stored_updates(config, self._strategy, self.attack, self.layout.size)
        self.repair = make_repair(config, self.dataset)
        self.audits = make_audits(config, self.dataset, traits_of(self._strategy).audit)
        check_audits(config, self.audits)
        self.enrolment = make_enrolment(config, traits_of(self._strategy))
        self.trainer = make_trainer(config, self.model, self.federation)
        self.plan: Plan | None = None
        personal = self.trainer.personal is not None and config.client_app is None
        whole = make_model(config, self.dataset).to(self.device) if personal else None
        self.measuring = Measuring(
            config,
            self.federation,
            self.attack,
            self.server_model.module if whole is None else whole,
            self._shares_rows(),
        )
        self.personalised = (
            None if whole is None else Personalised(whole, self.trainer, self.measuring.test)
        )

    @property
    def strategy(self) -> Any:
        """What aggregates: one of ours, Flower's or a stranger's."""
        return self._strategy

    @property
    def size(self) -> int:
        """Parameters of the model."""
        return self.layout.size

    @property
    def test_x(self) -> Tensor:
        """Test examples as the model sees them."""
        return self.measuring.test[0]

    @property
    def test_y(self) -> Tensor:
        """Their labels."""
        return self.measuring.test[1]

    @property
    def triggered(self) -> tuple[Tensor, Tensor] | None:
        """Triggered test examples of the classes that a backdoor does not aim at."""
        return self.measuring.triggered

    @property
    def judge(self) -> Judge:
        """What says which round's model is the best; see `World.judge`."""
        return self.measuring.judge

    def _shares_rows(self) -> str:
        """Return which part uses the server's rows, beside the judge; empty if none does."""
        parts: dict[str, Any] = {f"strategy {self.config.strategy.name}": self._strategy}
        if self.config.repair is not None:
            parts[f"repair {self.config.repair.name}"] = self.repair
        using = [told for told, part in parts.items() if traits_of(part).server_data != "none"]
        return " and ".join(using)

    def bound_to(self, planned: int, done: int) -> str:
        """Return why rounds that are done depend on how many there are; see `World.bound_to`."""
        return bound_to(self.config, self.trainer, self.repair, planned, done)

    def settle(self, out: Path, *, resume: bool) -> None:
        """Decide how clients are trained, and write a measured choice into the configuration."""
        if self.config.client_app is None:
            self.config, self.plan = settle(self.config, self.trainer, out, resume=resume)

    # --- an execution -------------------------------------------------------------------------

    def open(self, out: Path, checkpoint: Checkpoint | None) -> None:
        """Prepare an execution; see `World.open`."""
        self.checkpoint, self.out = checkpoint, out
        self.rounds_done = checkpoint.server_round if checkpoint else 0
        self.outcome: Outcome | None = None
        self.faulty: FaultyGrid | None = None
        self.history = History()
        # Requests to unlearn name clients, and parties to encryption sign as what they are.
        declared = traits_of(self.strategy)
        named = declared.requests or declared.client_side
        self.handles = None if named else Handles(self.config.seed)
        self.node_memories: NodeMemories | None = None
        self.strangers = StrangersState(self.config.strategy.name)
        self.vector = checkpoint.model if checkpoint else self._first_vector()
        self.previous = checkpoint.previous_model if checkpoint else self.vector
        if checkpoint is not None:
            self.history.note(self.rounds_done, self.previous)
            self.trainer.memories = of_state(checkpoint.client_state)
            self._check_memories(checkpoint)
        self.attack.load_state(checkpoint.attack_state if checkpoint else {})
        if traits_of(self.strategy).rule:
            if checkpoint is not None:
                self.strategy.load_state(checkpoint.strategy_state)
            self.strategy.open_store(out / "updates", self.rounds_done)
        elif checkpoint is not None:
            self.strangers.give_back(self.strategy, checkpoint.strategy_state)
        self.recorder = Recorder(out)
        if self.repair is not None and checkpoint is not None:
            self.repair.load_state(checkpoint.repair_state)
        self.tending = Tending(
            self.config, self.repair, self.audits, self._scene(out), self.recorder
        )

    @property
    def _remembers(self) -> bool:
        return self.config.client_app is None and self.trainer.rule.remembers

    def _check_memories(self, checkpoint: Checkpoint) -> None:
        """Refuse to go on where clients would have forgotten what their rule remembers."""
        if self._remembers and not checkpoint.client_state:
            raise RunError(
                f"the checkpoint of round {checkpoint.server_round} holds no memory of clients, "
                f"which training {self.config.training.name} needs; start again with another --out"
            )

    def _first_vector(self) -> Tensor:
        state = self.server_model.module.state_dict()
        return self.layout.flatten({name: value.cpu() for name, value in state.items()})

    def _scene(self, out: Path) -> Scene:
        # A repair that needs no examples is lent the model all the same.
        lent = self.repair is not None or (self.audits and self.config.server_samples > 0)
        tools = (
            server_tools(self.config, self.dataset, self.federation, self.server_model)
            if lent
            else None
        )
        return Scene(
            config=self.config,
            out=out,
            rounds_done=self.rounds_done,
            strategy=self.strategy,
            federation=self.federation,
            task=self.task,
            model=self.server_model,
            device=self.device,
            test=self.measuring.test,
            triggered=self.triggered,
            tools=tools,
            fresh=self._fresh,
            client_of=int if self.handles is None else self.handles.client,
        )

    def _fresh(self, number: int) -> FlatModel:
        untrained = {"seed": self.config.seed + 1 + number, "start_from": None}
        other = self.config.model_copy(update=untrained)
        return FlatModel(make_server_model(other, self.dataset).to(self.device))

    def _attacking(self, server_round: int) -> bool:
        return attacks_in(self.config, server_round)

    @property
    def _nameless(self) -> bool:
        """Whether not even this process knows who sent what."""
        return self.enrolment is not None and self.enrolment.deployable

    def check_deployed(self) -> None:
        """Refuse what a real server cannot do for its clients; see `World.check_deployed`."""
        check_deployed(self.config, self.enrolment, self.attack.needs)
        if self.stored is not None:
            allowed = "nothing in a deployment, whose server keeps a round's updates in memory"
            far = self.stored.place == "workers"
            field = "updates_on" if far else "update_memory"
            raise ConfigurationError(field, getattr(self.config, field), allowed)

    def serve_here(self, record: Record) -> None:
        """Run the rounds with clients that this process, or Ray's, train."""
        if self._nameless:
            told = "none in a simulation; docker/local.sh --enrolment k-pseudonym has one"
            raise ConfigurationError("enrolment.registrar", "a registrar", told)
        assert self.plan is not None
        with local_grid(
            self.config, self.trainer, self.plan, self._attacking, self.history, self._room()
        ) as grid:
            side = traits_of(self.strategy).rule
            inside = self.strategy.training_side(grid, self.trainer) if side else grid
            self.serve(inside, record)

    def _room(self) -> UpdateRoom | None:
        """Return where updates lie that are larger than the memory they may take."""
        if self.stored is None or self.stored.place != "file":
            return None
        folder = self.config.update_dir or self.out
        return UpdateRoom(self.stored.memory, folder, self.config.update_type)

    def opening(self, out: Path) -> list[str]:
        """Return what is told before round 1; refuse a place without room for the updates."""
        if self.stored is None:
            return []
        folder = self.config.update_dir or out
        check_room(self.stored, folder)
        return [self.stored.told(folder)]

    def serve(self, grid: Grid, record: Record) -> None:
        """Run the strategy's own loop on a grid, with the coalition around it.

        From the clients outwards: the coalition, the clients' tickets, the network that fails, the
        clients' other side (encryption), admission. Real clients encrypt for themselves: what they
        send is handed on.
        """
        config = self.config
        hidden = is_hidden(self.strategy, grid)
        self._record = record
        # A plan was made for engines of our own alone: on real nodes, memories stay where they are.
        if config.engine == "flower" and self.plan is not None and self._remembers:
            self.node_memories = NodeMemories(grid)
            self.node_memories.hand_back(self.trainer.memories)
        adversary = AdversarialGrid(
            grid,
            self.attack,
            self.federation.malicious,
            config.seed,
            scope=config.attack_knowledge,
            attacking=self._attacking,
            defence=config.strategy.name,
            aggregate=copy_of_rule(config, self.strategy, self.handles),
            history=self.history,
            prepare=lambda current, sent: self.trainer.prepare(current, sent.to(self.device)),
            joined=parse_schedule(config.attack_rounds).joined,
        )
        observed = ObservedStrategy(
            self.strategy,
            seed=config.seed,
            rounds_done=self.rounds_done,
            on_train=self._on_train,
            mend=self._mend,
            survive=config.faults.active,
        )
        declared = traits_of(self.strategy)
        inner: Grid = adversary
        # Clients that encrypt sign what they send then, which is made further out.
        if self.enrolment is not None and not declared.client_side:
            inner = TicketedGrid(adversary, self.enrolment)
        outer = grid if hidden else self._with_faults(inner)
        if declared.rule and not hidden:
            outer = self.strategy.client_side(outer)
        gathered = self.enrolment.gather(grid) if self.enrolment is not None else None
        if gathered is not None:
            outer = gathered
        elif self.enrolment is not None:
            ticketed = inner if isinstance(inner, TicketedGrid) else None
            outer = EnrolledGrid(outer, self.enrolment, ticketed)
        if self.handles is not None:
            outer = VeiledGrid(outer, self.handles)
        observed.start(
            grid=outer,
            initial_arrays=self.layout.to_arrays(self.vector),
            num_rounds=config.rounds - self.rounds_done,
            train_config=ConfigRecord(train_config(config)),
            timeout=config.round_timeout,
            evaluate_fn=self._evaluate,
        )

    def _with_faults(self, grid: Grid) -> Grid:
        """Return the grid behind a network that fails as configured."""
        if not self.config.faults.active:
            return grid
        self.faulty = FaultyGrid(grid, self.config.faults, self.config.seed)
        if self.checkpoint is not None:
            self.faulty.load_state(self.checkpoint.grid_state)
        return self.faulty

    def _on_train(self, outcome: Outcome) -> None:
        self.outcome = outcome if self.handles is None else unveiled(outcome, self.handles)

    def _mend(self, current: int, arrays: ArrayRecord) -> ArrayRecord | None:
        """Let the repair change a round's model; None where it is not its turn."""
        vector = self.layout.vector_from_arrays(arrays)
        mended = self.tending.mend(current, vector)
        return None if mended is None else self.layout.to_arrays(mended)

    # --- after a round ------------------------------------------------------------------------

    def _evaluate(self, server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Evaluate and record; Flower calls it after every round."""
        if server_round == 0 and self.checkpoint is not None:
            return None
        current = server_round + self.rounds_done
        # A strategy may send clients another model than the one that the last round ended with.
        sent = self.history.started_from(current) if current else None
        self.previous = self.vector if sent is None else sent
        self.vector = self.layout.vector_from_arrays(arrays)
        if current:
            self.history.note(current, self.previous)
        outcome = self.outcome if current else None
        malicious = self.federation.malicious
        if self.node_memories is not None and outcome is not None:
            self.trainer.memories.update(self.node_memories.fetch(outcome.asked))
        figures = {**self._metrics(current), **tally(outcome, malicious)}
        if self._nameless:
            figures.update(true_positive_rate=None, false_positive_rate=None)
        if self.faulty is not None:
            figures["faults"] = self.faulty.counts
        figures.update(self.tending.look(current, self.vector))
        if self.personalised is not None:
            figures.update(self.personalised.figures(self.vector.to(self.device)))
        if self.measuring.clients is not None:
            self.recorder.append(files.FAIRNESS, self.measuring.clients.records(current))
        self._record(current, figures, self._client_records(current))
        return MetricRecord({self.task.headline: figures[self.task.headline]})

    def _metrics(self, current: int) -> dict[str, Any]:
        vector = self._load_global()
        if "model" in self.attack.needs and current and self._attacking(current):
            self.trainer.prepare(current, self.previous.to(self.device))
            self.measuring.stamp_anew()
        personal = self.personalised
        own = None if personal is None else partial(personal.of_client, vector)
        return self.measuring.measure(own)

    def _load_global(self) -> Tensor:
        """Load the model after the last round into the network that is measured; return it."""
        vector = self.vector.to(self.device)
        if self.personalised is None:
            self.server_model.load(vector)
        else:
            self.personalised.load(vector)
        return vector

    def _client_records(self, current: int) -> list[dict[str, Any]]:
        if current == 0 or self.outcome is None:
            return []
        records = client_records(self.outcome, self.federation.malicious, self.federation.poisoned)
        if self.enrolment is not None and not self.enrolment.named:
            for record in records:
                # All that the aggregator knows of the sender.
                record["handle"] = self.enrolment.handle_of(record["client"], current)
                if self._nameless:
                    record["malicious"] = None
                    record.pop("poisoned", None)
        if self.faulty is not None:
            for record in records:
                # The truth about the network, which the server does not know.
                record["fault"] = self.faulty.truth.get(record["client"])
        return records

    # --- what is written ----------------------------------------------------------------------

    def state(self, server_round: int, seconds: float) -> Checkpoint:
        """Return what must survive a crash; see `World.state`."""
        return Checkpoint(
            server_round,
            self.vector,
            self.previous,
            self.strategy.state()
            if traits_of(self.strategy).rule
            else self.strangers.keep(self.strategy),
            seconds,
            grid_state=self.faulty.state() if self.faulty else {},
            attack_state=self.attack.state(),
            repair_state=self.repair.state() if self.repair is not None else {},
            client_state=as_state(self.trainer.memories),
        )

    def threat_model(self) -> dict[str, Any]:
        """Return the threat model; see `World.threat_model`."""
        card = threat_model(self.config, self.federation, self.attack, self.strategy, self.task)
        if self.enrolment is not None and (told := self.enrolment.describe()):
            card["defence"]["enrolment"] = told
        return card

    def tensors(self) -> dict[str, Tensor]:
        """Return the whole model by name, what is frozen too; see `World.tensors`."""
        if self.personalised is not None:
            return self.personalised.tensors(self.vector)
        arrays = self.layout.to_arrays(self.vector)
        learnt = {name: torch.from_numpy(array.numpy().copy()) for name, array in arrays.items()}
        state = self.server_model.module.state_dict()
        return {name: learnt[name] if name in learnt else state[name].clone() for name in state}

    def finish(self) -> None:
        """End the audits; write what stayed with clients."""
        if self.personalised is not None:
            self.personalised.save(self.out)
        self.audited = self.tending.finish()

    def summary(self, rounds: list[dict[str, Any]], clients: Path) -> dict[str, Any]:
        """Return what the summary says beside what all runs say; see `World.summary`."""
        config, federation = self.config, self.federation
        plan = self.plan
        attacked = federation.malicious or federation.poisoned
        self._load_global()
        return {
            "attack": config.attack.name if attacked else "none",
            "partition": config.partition.name,
            "model": config.model.name,
            "training": config.training.name,
            "malicious": len(federation.malicious),
            # Where nobody knows whose updates are whose, places in the records are nobody's.
            "malicious_clients": [] if self._nameless else sorted(federation.malicious),
            "league": traits_of(self.strategy).server_data,
            "executor": plan.executor if plan else None,
            "executor_reason": plan.reason if plan else None,
            "device": str(self.device),
            "replies": total(rounds),
            "notes": [*self.dataset.notes, *left_out(self.strategy)],
            "split": split_told(federation),
            **({"aim": aims} if (aims := aim(self.attack, federation)) else {}),
            **chosen_parts(config, federation, self.audited),
            **self.measuring.summary(clients.parent, rounds[-1]["round"]),
        }
