"""`Execution`: the rounds of one simulation, recorded and checkpointed as they end."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import Grid
from safetensors.torch import save
from torch import Tensor

from fedguard.assembly.capacity import check_disk
from fedguard.assembly.make import attacks_in, create_strategy
from fedguard.errors import RunError
from fedguard.grids.adversarial import AdversarialGrid
from fedguard.grids.faulty import FaultyGrid
from fedguard.grids.foreign_app import ClientAppGrid, find_client_app
from fedguard.grids.inprocess import InProcessGrid
from fedguard.metrics.classification import attack_success_rate, evaluate, flip_success
from fedguard.records import writer as files
from fedguard.records.checkpoints import Checkpoint, CheckpointStore
from fedguard.records.writer import Recorder, write_atomically
from fedguard.runs.engines import local_grid
from fedguard.runs.observed import ObservedStrategy, Outcome
from fedguard.runs.records import client_records, decision, summarise, threat_model
from fedguard.strategies.base import RobustStrategy
from fedguard.unlearning.audit import make_verifier
from fedguard.unlearning.grid import UnlearningClients
from fedguard.unlearning.strategy import SoUL

if TYPE_CHECKING:
    from fedguard.runs.simulation import Simulation

RoundListener = Callable[[dict[str, Any]], None]


class Execution:
    """One execution of a simulation, from its first or its next round to its summary."""

    def __init__(
        self,
        simulation: Simulation,
        out: Path,
        resume: bool,
        on_round: RoundListener,
        grid: Grid | None,
    ) -> None:
        self.simulation = simulation
        self.grid = grid
        self.config = simulation.config
        self.recorder = Recorder(out)
        self.out = out
        self.on_round = on_round
        self.store = CheckpointStore(out / "checkpoint", self.config.digest())
        self.checkpoint = self.store.newest() if resume else None
        self.outcome: Outcome | None = None
        self.verifier = make_verifier(simulation, out, self.rounds_done)
        self.faulty: FaultyGrid | None = None
        self.rule_copy: RobustStrategy | None = None
        self._remembering: list[InProcessGrid | AdversarialGrid] = []
        self.layout = simulation.server_model.layout
        self.vector = self._first_vector()
        self.previous = self.checkpoint.previous_model if self.checkpoint else self.vector
        self.seconds_before = self.checkpoint.seconds if self.checkpoint else 0.0
        self.started = self.round_started = time.monotonic()

    @property
    def rounds_done(self) -> int:
        """Rounds that an earlier execution finished."""
        return self.checkpoint.server_round if self.checkpoint else 0

    def _first_vector(self) -> Tensor:
        if self.checkpoint is not None:
            return self.checkpoint.model
        state = self.simulation.server_model.module.state_dict()
        return self.layout.flatten({name: value.cpu() for name, value in state.items()})

    def execute(self) -> dict[str, Any]:
        """Run what is left of the rounds; see `Simulation.run`."""
        check_disk(self.out, self.layout.size)
        try:
            self._prepare_files()
            if self.rounds_done < self.config.rounds:
                self._start()
            self._write_model()
            if self.verifier is not None:
                self.verifier.finish()
            summary = self._summary()
            self.recorder.write_json(files.SUMMARY, summary)
        except OSError as error:
            raise self._unwritable(error) from error
        return summary

    def _unwritable(self, error: OSError) -> RunError:
        """Return what to say where a file cannot be written: what went wrong, what is left."""
        reason = error.strerror or str(error) or type(error).__name__
        where = error.filename or self.out
        return RunError(
            f"{where}: {' '.join(reason.split())}; put that right, and --resume with the same "
            f"--out goes on after the last checkpoint in {self.store.directory}"
        )

    def _prepare_files(self) -> None:
        strategy = self.simulation.strategy
        if self.checkpoint is None:
            for name in (files.ROUNDS, files.CLIENTS, files.SUMMARY):
                (self.out / name).unlink(missing_ok=True)
            shutil.rmtree(self.store.directory, ignore_errors=True)
        else:
            self.recorder.truncate_after(self.rounds_done)
            if isinstance(strategy, RobustStrategy):
                strategy.load_state(self.checkpoint.strategy_state)
        if isinstance(strategy, SoUL):
            strategy.open_store(self.out / "updates", self.rounds_done)
        self.recorder.write_config(self.config.resolved())
        self.recorder.write_json(files.THREAT_MODEL, threat_model(self.simulation))

    def _start(self) -> None:
        if self.grid is not None:
            self._serve(self.grid)
            return
        if self.config.engine == "flower":
            from fedguard.nodes.in_flower import run_in_flower

            run_in_flower(self.config, self._serve)
            return
        if self.config.client_app is not None:
            own = self.config.client_app
            app = find_client_app(own.name)
            self._serve(ClientAppGrid(app, self.config.clients, own.arguments))
            return
        trainer, chosen = self.simulation.trainer, self.simulation.plan
        assert chosen is not None
        with local_grid(self.config, trainer, chosen, self._attacking) as grid:
            self._remembering.append(grid)
            self._serve(UnlearningClients(grid, trainer) if self.verifier else grid)

    def _attacking(self, server_round: int) -> bool:
        return attacks_in(self.config, server_round)

    def _serve(self, grid: Grid) -> None:
        """Run the strategy's own loop on a grid, with the coalition around it."""
        config, simulation = self.config, self.simulation
        adversary = AdversarialGrid(
            grid,
            simulation.attack,
            simulation.federation.malicious,
            config.seed,
            scope=config.attack_knowledge,
            attacking=self._attacking,
            defence=config.strategy.name,
            aggregate=self._copy_of_rule(),
        )
        observed = ObservedStrategy(
            simulation.strategy,
            seed=config.seed,
            rounds_done=self.rounds_done,
            on_train=self._on_train,
            survive=config.faults.active,
        )
        self._remembering.append(adversary)
        if self.checkpoint is not None:
            self._remind()
        self.round_started = time.monotonic()
        served = self._with_faults(adversary)
        if isinstance(simulation.strategy, RobustStrategy):
            served = simulation.strategy.client_side(served)
        observed.start(
            grid=served,
            initial_arrays=self.layout.to_arrays(self.vector),
            num_rounds=config.rounds - self.rounds_done,
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

    def _remind(self) -> None:
        """Tell the grids which model the last round started from.

        A grid that no client of a round answered, or that did not attack in it, has not seen it.
        """
        for grid in self._remembering:
            on_device = isinstance(grid, InProcessGrid)
            device = self.simulation.device if on_device else self.previous.device
            grid.previous_global = self.previous.to(device)

    def _copy_of_rule(self) -> Callable[[Any], Tensor] | None:
        """Return the deployed rule as a function, on a copy with its own state."""
        if not isinstance(self.simulation.strategy, RobustStrategy):
            return None
        copy = create_strategy(self.config)
        assert isinstance(copy, RobustStrategy)
        copy.pre = self.simulation.strategy.pre
        copy.layout, copy.tools = self.simulation.strategy.layout, self.simulation.strategy.tools
        if self.checkpoint is not None:
            copy.load_state(self.checkpoint.rule_state)
        self.rule_copy = copy
        return lambda updates: copy.decide(updates).delta

    def _on_train(self, outcome: Outcome) -> None:
        self.outcome = outcome

    def _evaluate(self, server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Evaluate, record and checkpoint; Flower calls it after every round."""
        if server_round == 0 and self.checkpoint is not None:
            return None
        current = server_round + self.rounds_done
        self.previous, self.vector = self.vector, self.layout.vector_from_arrays(arrays)
        record = {"round": current, **self._metrics(current), **self._decision(current)}
        if self.faulty is not None:
            record["faults"] = self.faulty.counts
        if self.verifier is not None:
            record.update(self.verifier.observe(current, self.vector))
        if current:
            self._remind()
        now = time.monotonic()
        record["seconds"] = round(now - self.round_started, 4)
        self.round_started = now
        self.recorder.append(files.CLIENTS, self._client_records(current))
        self.recorder.append(files.ROUNDS, [record])
        if current:
            self._save_checkpoint(current, now)
        self.on_round(record)
        return MetricRecord({"accuracy": record["accuracy"]})

    def _save_checkpoint(self, current: int, now: float) -> None:
        strategy = self.simulation.strategy
        state = strategy.state() if isinstance(strategy, RobustStrategy) else {}
        seconds = self.seconds_before + now - self.started
        self.store.save(
            Checkpoint(
                current,
                self.vector,
                self.previous,
                state,
                seconds,
                grid_state=self.faulty.state() if self.faulty else {},
                rule_state=self.rule_copy.state() if self.rule_copy else {},
            )
        )

    def _metrics(self, current: int) -> dict[str, Any]:
        simulation = self.simulation
        model = simulation.server_model
        model.load(self.vector.to(simulation.device))
        found = evaluate(
            model.module, simulation.test_x, simulation.test_y, simulation.dataset.num_classes
        )
        success = None
        if "model" in simulation.attack.needs and current and self._attacking(current):
            simulation.trainer.prepare(current, self.previous.to(simulation.device))
            simulation.triggered = simulation.make_triggered()
        if simulation.triggered is not None and simulation.attack.target_class is not None:
            x, y = simulation.triggered
            success = attack_success_rate(model.module, x, y, simulation.attack.target_class)
        return {
            "accuracy": found.accuracy,
            "loss": found.loss,
            "attack_success_rate": success,
            "per_class_recall": list(found.per_class_recall),
            "macro_f1": found.macro_f1,
            "source_to_target": flip_success(found, simulation.attack),
        }

    def _decision(self, current: int) -> dict[str, Any]:
        outcome = self.outcome if current else None
        return decision(outcome, self.simulation.federation.malicious)

    def _client_records(self, current: int) -> list[dict[str, Any]]:
        if current == 0 or self.outcome is None:
            return []
        records = client_records(self.outcome, self.simulation.federation.malicious)
        if self.faulty is not None:
            for record in records:
                # The truth about the network, which the server does not know.
                record["fault"] = self.faulty.truth.get(record["client"])
        return records

    def _write_model(self) -> None:
        arrays = self.layout.to_arrays(self.vector)
        tensors = {name: torch.from_numpy(array.numpy().copy()) for name, array in arrays.items()}
        write_atomically(self.out / files.MODEL, save(tensors))

    def _summary(self) -> dict[str, Any]:
        return summarise(
            self.simulation, self.out, self.seconds_before + time.monotonic() - self.started
        )
