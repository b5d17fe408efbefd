"""`HorizontalWorld`: clients hold rows of the same features and train one model."""

from __future__ import annotations

from collections.abc import Callable
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
from fedguard.assembly.strategy import create_strategy, make_strategy, train_config
from fedguard.attacks.base import Scene as AttackScene
from fedguard.attacks.toolkit.schedule import parse_schedule
from fedguard.audits.base import Scene
from fedguard.clients.planner import Plan, settle
from fedguard.config import SimulationConfig
from fedguard.enrolment.base import EnrolledGrid, make_enrolment
from fedguard.errors import RunError
from fedguard.grids.adversarial import AdversarialGrid
from fedguard.grids.faulty import FaultyGrid
from fedguard.grids.history import History
from fedguard.models.device import resolve_device
from fedguard.models.flat import FlatModel
from fedguard.nodes.memory import NodeMemories, as_state, of_state
from fedguard.records.checkpoints import Checkpoint
from fedguard.records.writer import Recorder
from fedguard.runs.engines import local_grid
from fedguard.runs.observed import ObservedStrategy, Outcome
from fedguard.runs.personal import Personalised
from fedguard.runs.records import client_records, threat_model
from fedguard.runs.tally import tally, total
from fedguard.runs.tending import Tending
from fedguard.runs.world import Record
from fedguard.strategies.base import RobustStrategy
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
        self.repair = make_repair(config, self.dataset)
        self.audits = make_audits(config, self.dataset, traits_of(self._strategy).audit)
        self.enrolment = make_enrolment(config, traits_of(self._strategy))
        self.test_x = self.federation.normalise(self.dataset.x_test)
        self.test_y = self.dataset.y_test.to(self.device)
        self.triggered = self.make_triggered()
        self.trainer = make_trainer(config, self.model, self.federation)
        self.plan: Plan | None = None
        self.personalised = self._personalised()

    def _personalised(self) -> Personalised | None:
        """Return what evaluates clients' own models; None where they have none."""
        if self.trainer.personal is None or self.config.client_app is not None:
            return None
        module = make_model(self.config, self.dataset).to(self.device)
        return Personalised(module, self.trainer, (self.test_x, self.test_y))

    @property
    def strategy(self) -> Any:
        """What aggregates: one of ours, Flower's or a stranger's."""
        return self._strategy

    @property
    def size(self) -> int:
        """Parameters of the model."""
        return self.layout.size

    def make_triggered(self) -> tuple[Tensor, Tensor] | None:
        """Return triggered test examples of the classes that a backdoor does not aim at."""
        if not self.attack.backdoor or self.attack.target_class is None:
            return None
        rows = self.dataset.y_test != self.attack.target_class
        x = self.attack.trigger(self.dataset.x_test[rows])
        return self.federation.normalise(x), self.dataset.y_test[rows].to(self.device)

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
        self.rule_copy: RobustStrategy | None = None
        self.history = History()
        self.node_memories: NodeMemories | None = None
        self.strangers = StrangersState(self.config.strategy.name)
        self.vector = checkpoint.model if checkpoint else self._first_vector()
        self.previous = checkpoint.previous_model if checkpoint else self.vector
        if checkpoint is not None:
            self.history.note(self.rounds_done, self.previous)
            self.trainer.memories = of_state(checkpoint.client_state)
            self._check_memories(checkpoint)
        if traits_of(self.strategy).rule:
            if checkpoint is not None:
                self.strategy.load_state(checkpoint.strategy_state)
            self.strategy.open_store(out / "updates", self.rounds_done)
        elif checkpoint is not None:
            self.strangers.give_back(self.strategy, checkpoint.strategy_state)
        scene = self._scene(out)
        self.tending = Tending(self.config, self.repair, self.audits, scene, Recorder(out))

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
        lent = self.config.server_samples > 0 and (self.repair is not None or self.audits)
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
            test=(self.test_x, self.test_y),
            triggered=self.triggered,
            tools=tools,
            fresh=self._fresh,
        )

    def _fresh(self, number: int) -> FlatModel:
        other = self.config.model_copy(update={"seed": self.config.seed + 1 + number})
        return FlatModel(make_server_model(other, self.dataset).to(self.device))

    def _attacking(self, server_round: int) -> bool:
        return attacks_in(self.config, server_round)

    def serve_here(self, record: Record) -> None:
        """Run the rounds with clients that this process, or Ray's, train."""
        assert self.plan is not None
        with local_grid(
            self.config, self.trainer, self.plan, self._attacking, self.history
        ) as grid:
            side = traits_of(self.strategy).rule
            inside = self.strategy.training_side(grid, self.trainer) if side else grid
            self.serve(inside, record)

    def serve(self, grid: Grid, record: Record) -> None:
        """Run the strategy's own loop on a grid, with the coalition around it.

        From the clients outwards: the coalition, the network that fails, the clients' other side
        (encryption), admission.
        """
        config = self.config
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
            aggregate=self._copy_of_rule(),
            history=self.history,
        )
        observed = ObservedStrategy(
            self.strategy,
            seed=config.seed,
            rounds_done=self.rounds_done,
            on_train=self._on_train,
            mend=self._mend,
            survive=config.faults.active,
        )
        outer = self._with_faults(adversary)
        if traits_of(self.strategy).rule:
            outer = self.strategy.client_side(outer)
        if self.enrolment is not None:
            outer = EnrolledGrid(outer, self.enrolment)
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

    def _copy_of_rule(self) -> Callable[[Any], Tensor] | None:
        """Return the deployed rule as a function, on a copy with its own state."""
        if not traits_of(self.strategy).copyable:
            return None
        copy: RobustStrategy = create_strategy(self.config)  # type: ignore[assignment]
        copy.pre = self.strategy.pre
        copy.layout, copy.tools = self.strategy.layout, self.strategy.tools
        if self.checkpoint is not None:
            copy.load_state(self.checkpoint.rule_state)
        self.rule_copy = copy
        return lambda updates: copy.decide(updates).delta

    def _on_train(self, outcome: Outcome) -> None:
        self.outcome = outcome

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
        self.previous, self.vector = self.vector, self.layout.vector_from_arrays(arrays)
        if current:
            self.history.note(current, self.previous)
        outcome = self.outcome if current else None
        malicious = self.federation.malicious
        if self.node_memories is not None and outcome is not None:
            self.trainer.memories.update(self.node_memories.fetch(outcome.asked))
        figures = {**self._metrics(current), **tally(outcome, malicious)}
        if self.faulty is not None:
            figures["faults"] = self.faulty.counts
        figures.update(self.tending.look(current, self.vector))
        if self.personalised is not None:
            figures.update(self.personalised.figures(self.vector.to(self.device)))
        self._record(current, figures, self._client_records(current))
        return MetricRecord({self.task.headline: figures[self.task.headline]})

    def _metrics(self, current: int) -> dict[str, Any]:
        vector = self.vector.to(self.device)
        module = self.server_model.module
        if self.personalised is None:
            self.server_model.load(vector)
        else:
            module = self.personalised.load(vector)
        found = self.task.evaluate(module, self.test_x, self.test_y)
        if "model" in self.attack.needs and current and self._attacking(current):
            self.trainer.prepare(current, self.previous.to(self.device))
            self.triggered = self.make_triggered()
        scene = AttackScene(module, found, self.triggered)
        told = {name: value for name, value in found.items() if not isinstance(value, Tensor)}
        return {**told, **self.attack.measure(scene)}

    def _client_records(self, current: int) -> list[dict[str, Any]]:
        if current == 0 or self.outcome is None:
            return []
        records = client_records(self.outcome, self.federation.malicious)
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
            rule_state=self.rule_copy.state() if self.rule_copy else {},
            client_state=as_state(self.trainer.memories),
        )

    def threat_model(self) -> dict[str, Any]:
        """Return the threat model; see `World.threat_model`."""
        return threat_model(self.config, self.federation, self.attack, self.strategy, self.task)

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
        return {
            "attack": config.attack.name if federation.malicious else "none",
            "partition": config.partition.name,
            "model": config.model.name,
            "training": config.training.name,
            "malicious": len(federation.malicious),
            "malicious_clients": sorted(federation.malicious),
            "league": traits_of(self.strategy).server_data,
            "executor": plan.executor if plan else None,
            "executor_reason": plan.reason if plan else None,
            "device": str(self.device),
            "replies": total(rounds),
            "notes": list(self.dataset.notes),
            "split": {"counts": federation.class_counts().tolist()},
            **self._chosen(),
        }

    def _chosen(self) -> dict[str, Any]:
        """Return the names of the parts that a run need not have, of those that it has."""
        config = self.config
        found: dict[str, Any] = {}
        if config.repair is not None:
            found.update(repair=config.repair.name, repair_at=config.repair_at)
        if config.enrolment is not None:
            found["enrolment"] = config.enrolment.name
        if self.audited:
            found["audits"] = self.audited
        return found
