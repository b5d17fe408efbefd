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
from fedguard.assembly.stored_updates import stored_updates
from fedguard.assembly.strategy import make_strategy, train_config
from fedguard.attacks.toolkit.schedule import parse_schedule
from fedguard.audits.base import Scene
from fedguard.clients.planner import Plan, settle
from fedguard.config import SimulationConfig
from fedguard.enrolment.base import check_deployed, make_enrolment
from fedguard.errors import ConfigurationError
from fedguard.grids.update_room import UpdateRoom
from fedguard.models.device import resolve_device
from fedguard.models.flat import FlatModel
from fedguard.records import writer as files
from fedguard.records.checkpoints import Checkpoint
from fedguard.records.writer import Recorder
from fedguard.runs.engines import local_grid
from fedguard.runs.judging import Judge
from fedguard.runs.layers import Layers
from fedguard.runs.length import bound_to, check_audits
from fedguard.runs.measuring import Measuring
from fedguard.runs.memories import Memories
from fedguard.runs.observed import ObservedStrategy, Outcome
from fedguard.runs.personal import Personalised
from fedguard.runs.records import (
    parts,
    threat_model,
)
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
        self.layers = Layers(
            self.config,
            self.strategy,
            self.attack,
            self.trainer,
            self.enrolment,
            checkpoint.grid_state if checkpoint else {},
        )
        self.memories = Memories(self.config, self.trainer, checkpoint)
        self.strangers = StrangersState(self.config.strategy.name)
        self.vector = checkpoint.model if checkpoint else self._first_vector()
        self.previous = checkpoint.previous_model if checkpoint else self.vector
        if checkpoint is not None:
            self.layers.history.note(self.rounds_done, self.previous)
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
            client_of=self.layers.client_of,
        )

    def _fresh(self, number: int) -> FlatModel:
        untrained = {"seed": self.config.seed + 1 + number, "start_from": None}
        other = self.config.model_copy(update=untrained)
        return FlatModel(make_server_model(other, self.dataset).to(self.device))

    def check_deployed(self) -> None:
        """Refuse what a real server cannot do for its clients; see `World.check_deployed`."""
        check_deployed(self.config, self.enrolment, self.attack.needs)
        if self.stored is not None:
            raise self.stored.undeployable(self.config)

    def serve_here(self, record: Record) -> None:
        """Run the rounds with clients that this process, or Ray's, train."""
        if self.layers.nameless:
            told = "none in a simulation; docker/local.sh --enrolment k-pseudonym has one"
            raise ConfigurationError("enrolment.registrar", "a registrar", told)
        assert self.plan is not None
        with local_grid(
            self.config,
            self.trainer,
            self.plan,
            self.layers.attacking,
            self.layers.history,
            self._room(),
        ) as grid:
            side = traits_of(self.strategy).rule
            inside = self.strategy.training_side(grid, self.trainer) if side else grid
            self.serve(inside, record)

    def _room(self) -> UpdateRoom | None:
        """Return where updates lie that are larger than the memory they may take."""
        if self.stored is None or self.stored.place != "file":
            return None
        return UpdateRoom(self.stored.memory, self.config.update_dir or self.out, self.stored.kind)

    def opening(self, out: Path) -> list[str]:
        """Return what is told before round 1; refuse a place without room for the updates."""
        folder = self.config.update_dir or out
        return [] if self.stored is None else [self.stored.opening(folder)]

    def serve(self, grid: Grid, record: Record) -> None:
        """Run the strategy's own loop on a grid, with the coalition and all else around it."""
        config = self.config
        self._record = record
        # A plan was made for engines of our own alone: on real nodes, memories stay where they are.
        if config.engine == "flower" and self.plan is not None:
            self.memories.hand_back(grid)
        observed = ObservedStrategy(
            self.strategy,
            seed=config.seed,
            rounds_done=self.rounds_done,
            on_train=self._on_train,
            mend=self._mend,
            survive=config.faults.active,
        )
        observed.start(
            grid=self.layers.around(grid),
            initial_arrays=self.layout.to_arrays(self.vector),
            num_rounds=config.rounds - self.rounds_done,
            train_config=ConfigRecord(train_config(config)),
            timeout=config.round_timeout,
            evaluate_fn=self._evaluate,
        )

    def _on_train(self, outcome: Outcome) -> None:
        self.outcome = self.layers.unveiled(outcome)

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
        sent = self.layers.history.started_from(current) if current else None
        self.previous = self.vector if sent is None else sent
        self.vector = self.layout.vector_from_arrays(arrays)
        if current:
            self.layers.history.note(current, self.previous)
        outcome = self.outcome if current else None
        malicious = self.federation.malicious
        if outcome is not None:
            self.memories.fetch(outcome.asked)
        figures = {**self._metrics(current), **tally(outcome, malicious), **self.layers.counts()}
        if self.layers.nameless:
            figures.update(true_positive_rate=None, false_positive_rate=None)
        figures.update(self.tending.look(current, self.vector))
        if self.personalised is not None:
            figures.update(self.personalised.figures(self.vector.to(self.device)))
        if self.measuring.clients is not None:
            self.recorder.append(files.FAIRNESS, self.measuring.clients.records(current))
        clients = [] if outcome is None else self.layers.client_records(outcome)
        self._record(current, figures, clients)
        return MetricRecord({self.task.headline: figures[self.task.headline]})

    def _metrics(self, current: int) -> dict[str, Any]:
        vector = self._load_global()
        if "model" in self.attack.needs and current and self.layers.attacking(current):
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
            grid_state=self.layers.state(),
            attack_state=self.attack.state(),
            repair_state=self.repair.state() if self.repair is not None else {},
            client_state=self.memories.state(),
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
        plan = self.plan
        self._load_global()
        return {
            **parts(
                self.config,
                self.federation,
                self.attack,
                self.strategy,
                self.audited,
                nameless=self.layers.nameless,
            ),
            "executor": plan.executor if plan else None,
            "executor_reason": plan.reason if plan else None,
            "device": str(self.device),
            "replies": total(rounds),
            **self.measuring.summary(clients.parent, rounds[-1]["round"]),
        }
