"""`Simulation`: assembles the parts that a configuration names and runs them."""

from __future__ import annotations

import hashlib
import platform
import resource
import shutil
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from safetensors.torch import save
from torch import Tensor, nn

from fedguard import __version__, registry
from fedguard.attacks.base import Attack
from fedguard.attacks.schedule import parse_schedule
from fedguard.checkpoint import Checkpoint, CheckpointStore
from fedguard.clients.training import ClientTrainer, FlatModel, TrainingSettings
from fedguard.config import Part, SimulationConfig
from fedguard.data.dataset import Dataset
from fedguard.data.federation import Federation, draw_malicious, hold_out_for_server
from fedguard.encryption.client_side import with_client_side
from fedguard.encryption.strategy import EncryptedStrategy
from fedguard.errors import ConfigurationError
from fedguard.grids.adversarial import AdversarialGrid
from fedguard.grids.inprocess import InProcessGrid
from fedguard.metrics.classification import attack_success_rate, evaluate
from fedguard.metrics.detection import detection
from fedguard.models.build import build
from fedguard.observed import ObservedStrategy, Outcome
from fedguard.reporting import recorder as files
from fedguard.reporting.recorder import Recorder, read_jsonl, write_atomically
from fedguard.strategies.base import RobustStrategy, ServerTools
from fedguard.strategies.pre_aggregation import make_pre_aggregation

RoundListener = Callable[[dict[str, Any]], None]


class Simulation:
    """One run, from a checked configuration to a run directory.

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
        self.federation = make_federation(config, self.dataset, self.attack, self.device)
        self.model = make_model(config, self.dataset).to(self.device)
        self.server_model = FlatModel(make_model(config, self.dataset).to(self.device))
        self.strategy = self._make_strategy()
        x = self.dataset.x_test
        self._test_x = self.federation.normalise(x)
        self._test_y = self.dataset.y_test.to(self.device)
        self._triggered = self._make_triggered()
        self.trainer = make_trainer(config, self.model, self.federation)

    def _make_strategy(self) -> Strategy:
        config = self.config
        strategy = create_strategy(config)
        if config.pre is not None and not isinstance(strategy, RobustStrategy):
            raise ConfigurationError("pre", config.pre, "a fedguard strategy to put it in front of")
        if isinstance(strategy, RobustStrategy):
            if config.pre is not None:
                strategy.pre = make_pre_aggregation(
                    config.pre, assumed_malicious=config.assumed_malicious, seed=config.seed
                )
            strategy.layout = self.server_model.layout
            if strategy.needs_server_tools:
                if config.server_samples == 0:
                    raise ConfigurationError(
                        "server_samples", 0, f"at least 1 with strategy {config.strategy.name}"
                    )
                x, y = self.federation.server_examples()
                strategy.tools = ServerTools(
                    model=self.server_model.module,
                    x=x,
                    y=y,
                    latent_layer=str(self.server_model.module.latent_layer),
                    num_classes=self.dataset.num_classes,
                )
        return strategy

    def _make_triggered(self) -> tuple[Tensor, Tensor] | None:
        """Return triggered test examples of the classes that a backdoor does not aim at."""
        if not self.attack.backdoor or self.attack.target_class is None:
            return None
        rows = self.dataset.y_test != self.attack.target_class
        x = self.attack.trigger(self.dataset.x_test[rows])
        return self.federation.normalise(x), self.dataset.y_test[rows].to(self.device)

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
        """
        return _Run(self, out, resume, on_round, grid).execute()


class _Run:
    """The state of one execution of a simulation."""

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
        self.layout = simulation.server_model.layout
        self.vector = self._first_vector()
        self.previous = self.checkpoint.previous_model if self.checkpoint else self.vector
        self.seconds_before = self.checkpoint.seconds if self.checkpoint else 0.0
        self.started = self.round_started = time.monotonic()

    @property
    def rounds_done(self) -> int:
        return self.checkpoint.server_round if self.checkpoint else 0

    def _first_vector(self) -> Tensor:
        if self.checkpoint is not None:
            return self.checkpoint.model
        state = self.simulation.server_model.module.state_dict()
        return self.layout.flatten({name: value.cpu() for name, value in state.items()})

    def execute(self) -> dict[str, Any]:
        """Run what is left of the rounds; see `Simulation.run`."""
        self._prepare_files()
        if self.rounds_done < self.config.rounds:
            self._start()
        self._write_model()
        summary = self._summary()
        self.recorder.write_json(files.SUMMARY, summary)
        return summary

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
        self.recorder.write_config(self.config.resolved())
        self.recorder.write_json(files.THREAT_MODEL, threat_model(self.simulation))

    def _start(self) -> None:
        if self.grid is not None:
            self._serve(self.grid)
            return
        if self.config.engine == "flower":
            from fedguard.grids.flower import run_in_flower

            run_in_flower(self.config, self._serve)
            return
        trainer = self.simulation.trainer
        grid = InProcessGrid(trainer, self._attacking)
        if self.checkpoint is not None:
            grid.previous_global = self.previous.to(self.simulation.device)
        self._serve(grid)

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
        )
        if self.checkpoint is not None:
            adversary.previous_global = self.previous
        self.round_started = time.monotonic()
        observed.start(
            grid=with_client_side(simulation.strategy, adversary),
            initial_arrays=self.layout.to_arrays(self.vector),
            num_rounds=config.rounds - self.rounds_done,
            evaluate_fn=self._evaluate,
        )

    def _copy_of_rule(self) -> Callable[[Any], Tensor] | None:
        """Return the deployed rule as a function, on a copy with its own state."""
        if not isinstance(self.simulation.strategy, RobustStrategy):
            return None
        copy = create_strategy(self.config)
        assert isinstance(copy, RobustStrategy)
        copy.pre = self.simulation.strategy.pre
        copy.layout, copy.tools = self.simulation.strategy.layout, self.simulation.strategy.tools
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
        self.store.save(Checkpoint(current, self.vector, self.previous, state, seconds))

    def _metrics(self, current: int) -> dict[str, Any]:
        simulation = self.simulation
        model = simulation.server_model
        model.load(self.vector.to(simulation.device))
        found = evaluate(
            model.module, simulation._test_x, simulation._test_y, simulation.dataset.num_classes
        )
        success = None
        if "model" in simulation.attack.needs and current and self._attacking(current):
            simulation.trainer.prepare(current, self.previous.to(simulation.device))
            simulation._triggered = simulation._make_triggered()
        if simulation._triggered is not None and simulation.attack.target_class is not None:
            x, y = simulation._triggered
            success = attack_success_rate(model.module, x, y, simulation.attack.target_class)
        return {
            "accuracy": found.accuracy,
            "loss": found.loss,
            "attack_success_rate": success,
            "per_class_recall": list(found.per_class_recall),
        }

    def _decision(self, current: int) -> dict[str, Any]:
        outcome = self.outcome
        if current == 0 or outcome is None or outcome.updates is None or outcome.verdict is None:
            asked = len(outcome.asked) if outcome and current else 0
            return {
                "accepted": asked,
                "rejected": 0,
                "malformed": 0,
                "true_positive_rate": None,
                "false_positive_rate": None,
            }
        accepted = accepted_nodes(outcome)
        rejected = set(outcome.asked) - accepted
        rates = detection(outcome.asked, rejected, self.simulation.federation.malicious)
        return {
            "accepted": len(accepted),
            "rejected": len(rejected),
            "malformed": len(outcome.updates.malformed),
            "true_positive_rate": rates.true_positive_rate,
            "false_positive_rate": rates.false_positive_rate,
        }

    def _client_records(self, current: int) -> list[dict[str, Any]]:
        if current == 0 or self.outcome is None:
            return []
        return client_records(self.outcome, self.simulation.federation.malicious)

    def _write_model(self) -> None:
        arrays = self.layout.to_arrays(self.vector)
        tensors = {name: torch.from_numpy(array.numpy().copy()) for name, array in arrays.items()}
        write_atomically(self.out / files.MODEL, save(tensors))

    def _summary(self) -> dict[str, Any]:
        return summarise(
            self.simulation, self.out, self.seconds_before + time.monotonic() - self.started
        )


def attacks_in(config: SimulationConfig, server_round: int) -> bool:
    """Return whether the coalition attacks in a server round."""
    return parse_schedule(config.attack_rounds).active(server_round, config.seed)


def resolve_device(name: str) -> torch.device:
    """Return the device that a configuration names.

    Raises
    ------
    ConfigurationError
        If the machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigurationError(
            "device", name, f"auto or cpu; this machine has {torch.cuda.device_count()} GPUs"
        )
    return device


def load_dataset(config: SimulationConfig) -> Dataset:
    """Load the data set that a configuration names."""
    loader = registry.create("dataset", config.dataset.name, **config.dataset.arguments)
    dataset = loader.load(config.data_dir)
    if not isinstance(dataset, Dataset):
        raise ConfigurationError("dataset", config.dataset.name, "a loader that returns a Dataset")
    return dataset


def make_attack(config: SimulationConfig, dataset: Dataset) -> Attack:
    """Make the attack and let it check the task."""
    attack = registry.create("attack", config.attack.name, **config.attack.arguments)
    if not isinstance(attack, Attack):
        raise ConfigurationError("attack", config.attack.name, "a subclass of fedguard's Attack")
    if "images" in attack.needs and not dataset.is_image:
        raise ConfigurationError(
            "attack",
            config.attack.name,
            f"an attack that does not need images; {dataset.name} holds none",
        )
    if "aggregate" in attack.needs and not isinstance(create_strategy(config), RobustStrategy):
        raise ConfigurationError(
            "attack",
            config.attack.name,
            f"an attack that needs no copy of the rule; {config.strategy.name} cannot be copied",
        )
    try:
        attack.bind(dataset.num_classes, dataset.input_shape)
    except ConfigurationError as error:
        raise error if error.field.startswith("attack") else error.within("attack") from error
    return attack


def make_federation(
    config: SimulationConfig, dataset: Dataset, attack: Attack, device: torch.device
) -> Federation:
    """Hold out the server's rows, divide the others among clients and draw the malicious ones."""
    held, rest = hold_out_for_server(
        dataset.y_train, dataset.num_classes, config.server_samples, config.seed
    )
    partition = registry.create("partition", config.partition.name, **config.partition.arguments)
    labels = dataset.y_train[rest]
    split = partition.split(labels, dataset.num_classes, config.clients, config.seed)
    return Federation(
        dataset=dataset,
        shards=[rest[rows] for rows in split.indices],
        malicious=draw_malicious(config.clients, config.malicious, config.seed),
        attack=attack,
        seed=config.seed,
        server_rows=held,
        noise_std=split.noise_std,
        device=device,
    )


def make_model(config: SimulationConfig, dataset: Dataset) -> nn.Module:
    """Build the network, with initial weights that depend on the seed alone."""
    return build(
        config.model.name,
        dataset.input_shape,
        dataset.num_classes,
        config.seed,
        latent_layer=config.latent_layer,
        **config.model.arguments,
    )


def make_trainer(
    config: SimulationConfig, model: nn.Module, federation: Federation
) -> ClientTrainer:
    """Return a trainer with the configuration's hyper-parameters."""
    settings = TrainingSettings(
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        local_epochs=config.local_epochs,
        batch_size=config.batch_size,
    )
    return ClientTrainer(model, federation, settings, config.seed)


def create_strategy(config: SimulationConfig) -> Strategy:
    """Make the strategy, with what the configuration itself decides filled in."""
    part: Part = config.strategy
    known = registry.parameters(registry.find("strategy", part.name))
    cohort = max(1, round(config.fraction * config.clients))
    decided: dict[str, Any] = {
        "seed": config.seed,
        "assumed_malicious": config.assumed_malicious,
        "fraction_train": config.fraction,
        "fraction_evaluate": 0.0,
        "min_train_nodes": cohort,
        "min_evaluate_nodes": 0,
        "min_available_nodes": config.clients,
    }
    filled = {name: value for name, value in decided.items() if name in known}
    strategy = registry.create("strategy", part.name, **{**filled, **part.arguments})
    if not isinstance(strategy, Strategy):
        raise ConfigurationError(
            "strategy", part.name, "a subclass of flwr.serverapp.strategy.Strategy"
        )
    return strategy


def accepted_nodes(outcome: Outcome) -> set[int]:
    """Return the nodes whose update has a share in the aggregate."""
    if outcome.updates is None or outcome.verdict is None:
        return set()
    weights = outcome.verdict.weights.tolist()
    return {node for node, w in zip(outcome.updates.node_ids, weights, strict=True) if w > 0}


def client_records(outcome: Outcome, malicious: frozenset[int]) -> list[dict[str, Any]]:
    """Return one record per client that was asked; see ``clients.jsonl``."""
    updates, verdict = outcome.updates, outcome.verdict
    if updates is None or verdict is None:
        return [
            {
                "round": outcome.server_round,
                "client": node,
                "malicious": node in malicious,
                "accepted": None,
                "weight": None,
                "num_examples": None,
                "scores": {},
                "reason": None,
            }
            for node in outcome.asked
        ]
    rows = {node: row for row, node in enumerate(updates.node_ids)}
    weights = verdict.weights.tolist()
    claims = updates.num_examples.tolist()
    scores = {name: values.tolist() for name, values in verdict.scores.items()}
    records = []
    for node in outcome.asked:
        row = rows.get(node)
        reason = updates.malformed.get(node) or verdict.reasons.get(node)
        weight = 0.0 if row is None else weights[row]
        records.append(
            {
                "round": outcome.server_round,
                "client": node,
                "malicious": node in malicious,
                "accepted": weight > 0,
                "weight": weight,
                "num_examples": None if row is None else claims[row],
                "scores": {}
                if row is None
                else {name: values[row] for name, values in scores.items()},
                "reason": reason or updates.remarks.get(node),
            }
        )
    return records


def threat_model(simulation: Simulation) -> dict[str, Any]:
    """Return what the attacker knows and controls, what the defence assumes, what is measured."""
    config, federation = simulation.config, simulation.federation
    needs = sorted(simulation.attack.needs)
    tools = isinstance(simulation.strategy, RobustStrategy) and simulation.strategy.tools
    return {
        "attacker": {
            "attack": config.attack.name,
            "controls": f"{len(federation.malicious)} of {config.clients} clients",
            "clients": sorted(federation.malicious),
            "changes": needs or "nothing",
            "knowledge": {
                "partial": "the updates its own clients would have sent honestly",
                "full": "every honest update of the round",
            }[config.attack_knowledge],
            "rounds": config.attack_rounds,
        },
        "defence": {
            "strategy": config.strategy.name,
            "assumes malicious fraction": getattr(
                simulation.strategy, "assumed_malicious", "no bound"
            ),
            "holds auxiliary examples": config.server_samples if tools else 0,
            "sees who is malicious": False,
            **_protection(simulation),
        },
        "measured": [
            "accuracy, loss and recall per class on the test set",
            "attack success on triggered test examples of the classes that are not the target",
            "share of malicious and of honest clients rejected",
        ],
    }


def _protection(simulation: Simulation) -> dict[str, str]:
    """Return what an encrypted strategy says of its security."""
    strategy = simulation.strategy
    if not isinstance(strategy, EncryptedStrategy):
        return {}
    return {"encryption": strategy.describe(simulation.config.clients)}


def summarise(simulation: Simulation, out: Path, seconds: float) -> dict[str, Any]:
    """Return the summary of a finished run from its records."""
    config, federation = simulation.config, simulation.federation
    rounds = read_jsonl(out / files.ROUNDS)
    trained = [record for record in rounds if record["round"] > 0]
    best = max(trained, key=lambda record: record["accuracy"])
    return {
        "strategy": config.strategy.name,
        "attack": config.attack.name if federation.malicious else "none",
        "dataset": config.dataset.name,
        "partition": config.partition.name,
        "model": config.model.name,
        "clients": config.clients,
        "malicious": len(federation.malicious),
        "malicious_clients": sorted(federation.malicious),
        "rounds": config.rounds,
        "seed": config.seed,
        "engine": "inprocess" if config.engine == "auto" else config.engine,
        "device": str(simulation.device),
        "final": trained[-1],
        "best": {"round": best["round"], "accuracy": best["accuracy"]},
        "detection": {
            name: _mean(record[name] for record in trained)
            for name in ("true_positive_rate", "false_positive_rate")
        },
        "seconds": round(seconds, 3),
        "seconds_per_round": round(sum(r["seconds"] for r in trained) / len(trained), 4),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "model_sha256": model_sha256(out),
        "config_digest": config.digest(),
        "class_names": list(simulation.dataset.class_names),
        "notes": list(simulation.dataset.notes),
        "split": {"counts": federation.class_counts().tolist()},
        "versions": versions(),
        "out": str(out),
    }


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def model_sha256(out: Path) -> str:
    """Return the SHA-256 of the run's ``model.safetensors``."""
    return hashlib.sha256((out / files.MODEL).read_bytes()).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    packages = ("flwr", "torch", "numpy", "scipy", "scikit-learn")
    return {
        "fedguard": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }
