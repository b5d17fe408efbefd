"""The runs behind the unlearning table: variants, tasks, and what each run is measured by."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

BEFORE = 24
RECOVERY = 3
RELEARNING = 3

VARIANTS: dict[str, dict[str, Any]] = {
    "retrain": {"method": "retrain"},
    "retrain, other start": {"method": "retrain"},
    "soul": {"method": "soul"},
    "soul, milder": {"method": "soul", "alpha": 0.5, "beta": 0.1, "tolerance": 0.1},
    "soul, no repair": {"method": "soul", "ascent_repair": 0.0},
    "soul, pruning none": {"method": "soul", "pruning": "none"},
    "soul, pruning random": {"method": "soul", "pruning": "random"},
    "soul, pruning paper": {"method": "soul", "pruning": "paper"},
    "soul, pruning relative-change": {"method": "soul", "pruning": "relative-change"},
    "soul, pruning activation-ratio": {"method": "soul", "pruning": "activation-ratio"},
    "finetune": {"method": "finetune"},
    "ascent": {"method": "ascent"},
    "pga": {"method": "pga"},
    "federaser": {"method": "federaser"},
    "class-pruning": {"method": "class-pruning", "beta": 0.2},
    "not": {"method": "not"},
    "random-prune": {"method": "random-prune"},
}
RETRAINED = ("retrain", "retrain, other start")

BASE: dict[str, Any] = {
    "model": "cnn",
    "clients": 10,
    "malicious": 0.1,
    "partition": {"name": "dirichlet", "alpha": 0.5},
    "local_epochs": 1,
    "batch_size": 32,
    "lr": 0.15,
    "server_samples": 200,
    "device": "cpu",
}
ATTACK = {
    "name": "badnets",
    "target_class": 0,
    "poison_fraction": 0.5,
    "size": 4,
    "scale": 2.0,
}


class _Reached(Exception):  # noqa: N818 (no error: the shared rounds are done)
    """The rounds before the request are done."""


@dataclass(frozen=True)
class Task:
    """One data set and seed.

    Attributes
    ----------
    dataset : str
        Name in the table.
    seed : int
        Seed.
    base : mapping
        Configuration fields.
    before : int
        Rounds before the request.
    """

    dataset: str
    seed: int
    base: Mapping[str, Any]
    before: int

    def config(self, variant: str) -> Any:
        """Return the configuration of a variant."""
        from fedguard.clients.federation import draw_malicious
        from fedguard.config import parse

        settings = VARIANTS[variant]
        recovery, calibrating = RECOVERY, 0
        if settings["method"] == "retrain":
            recovery = self.before
        if settings["method"] == "federaser":
            calibrating = (self.before + 1) // 2
        (bad,) = draw_malicious(self.base["clients"], self.base["malicious"], self.seed)
        strategy = {"name": "soul", **settings, "recovery_rounds": recovery}
        return parse(
            {
                **self.base,
                "seed": self.seed,
                "strategy": strategy,
                "rounds": self.before + 1 + calibrating + recovery + RELEARNING,
                "unlearn": [{"client": bad, "round": self.before + 1}],
            }
        )

    def folder(self, root: Path, variant: str) -> Path:
        """Return the run directory of a variant."""
        name = variant.replace(", ", "-").replace(" ", "-")
        return root / f"{self.dataset}-{self.seed}" / f"{name}-{self.config(variant).digest()[:8]}"


def shared_rounds(task: Task, root: Path) -> Path:
    """Run the rounds before the request once, with FedEraser's store; return their folder."""
    from fedguard.runs.simulation import Simulation

    config = task.config("federaser")
    digest = config.digest()[:8]
    out = root / f"{task.dataset}-{task.seed}" / f"before-{digest}"
    done = out / "done"

    def listen(record: Mapping[str, Any]) -> None:
        if record["round"] == task.before:
            raise _Reached

    if not done.exists():
        try:
            Simulation(config).run(out, resume=True, on_round=listen)
        except _Reached:
            done.touch()
    return out


def run_variant(task: Task, variant: str, root: Path) -> Path:
    """Run one variant from the shared rounds, or find it run before; return its folder."""
    from fedguard.records.checkpoints import CheckpointStore
    from fedguard.runs.simulation import Simulation

    config = task.config(variant)
    out = task.folder(root, variant)
    if (out / "summary.json").exists():
        return out
    before = shared_rounds(task, root)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for name in ("rounds.jsonl", "clients.jsonl", "unlearning.json"):
        shutil.copy(before / name, out / name)
    if config.strategy.arguments["method"] == "federaser":
        shutil.copytree(before / "updates", out / "updates")
    shared = CheckpointStore(before / "checkpoint", task.config("federaser").digest()).newest()
    if shared is None:
        raise RuntimeError(f"{before} holds no checkpoint")
    simulation = Simulation(config)
    if variant == RETRAINED[1]:
        state = {**shared.strategy_state, "initial": _other_start(simulation)}
        shared = replace(shared, strategy_state=state)
        simulation.world.trainer.seed = config.seed + 1000
    CheckpointStore(out / "checkpoint", config.digest()).save(shared)
    simulation.run(out, resume=True)
    shutil.rmtree(out / "updates", ignore_errors=True)
    return out


def _other_start(simulation: Any) -> Any:
    from fedguard.assembly.make import make_model

    config = simulation.config.model_copy(update={"seed": simulation.config.seed + 1000})
    state = make_model(config, simulation.dataset).state_dict()
    return simulation.world.server_model.layout.flatten(state)


def distances(task: Task, root: Path) -> dict[str, float]:
    """Return each variant's output distance to the retrained models, the test set's mean.

    ``retrain`` itself has the distance between the two retrained models: the spread.
    """
    from safetensors.torch import load_file

    from fedguard.runs.simulation import Simulation
    from fedguard.unlearning.verification import output_distance

    cache = task.folder(root, "retrain") / "distances.json"
    if cache.exists():
        found: dict[str, float] = json.loads(cache.read_text())
        if set(found) == set(VARIANTS):
            return found
    simulation = Simulation(task.config("retrain"))
    model = simulation.world.server_model
    vectors = {
        name: model.layout.flatten(load_file(task.folder(root, name) / "recovered.safetensors"))
        for name in VARIANTS
    }
    found = {
        name: statistics.fmean(
            output_distance(model, vector, vectors[other], simulation.world.test_x)
            for other in RETRAINED
            if other != name
        )
        for name, vector in vectors.items()
    }
    cache.write_text(json.dumps(found))
    return found


def outcome(task: Task, root: Path) -> dict[str, dict[str, float | None]]:
    """Return every variant's figures for one data set and seed."""
    away = distances(task, root)
    found = {}
    read = {name: _read(task.folder(root, name)) for name in VARIANTS}
    again = [record["accuracy"] for record in read["retrain"]["rounds"][task.before + 2 :]]
    whole = read["retrain"]["costs"]["unlearning"]
    for name, run in read.items():
        phases, cost = run["phases"], run["costs"]["unlearning"]
        recovered = phases["recovered"]
        needed = next(
            (n for n, a in enumerate(again[: task.before], 1) if a >= recovered["test_accuracy"]),
            task.before,
        )
        found[name] = {
            "before accuracy": phases["before"]["test_accuracy"],
            "before success": phases["before"]["backdoor_success"],
            "before auc": phases["before"]["membership_auc"],
            "accuracy": recovered["test_accuracy"],
            "retain": recovered["retain_accuracy"],
            "forget": recovered["forget_accuracy"],
            "success after": phases["after"]["backdoor_success"],
            "accuracy after": phases["after"]["test_accuracy"],
            "success": recovered["backdoor_success"],
            "relearned": phases["relearned"]["backdoor_success"],
            "auc": recovered["membership_auc"],
            "tpr": recovered["membership_tpr"],
            "worst client": min(recovered["clients"].values()),
            "distance": away[name],
            "epochs": run["relearn"].get("epochs"),
            "fresh epochs": run["relearn"].get("epochs_of_a_fresh_model"),
            "needed": float(needed),
            "silenced": run["silenced_parameters"],
            **{
                f"{kind} ratio": cost[kind] / (whole[kind] * needed / task.before)
                for kind in ("flops", "bytes", "link_seconds", "seconds")
            },
        }
    return found


def _read(out: Path) -> dict[str, Any]:
    from fedguard.records.writer import read_jsonl

    found: dict[str, Any] = json.loads((out / "unlearning.json").read_text())
    return {**found, "rounds": read_jsonl(out / "rounds.jsonl")}


def tasks(quick: bool, data_dir: str, seeds: int, samples: int) -> Iterator[Task]:
    """Yield data sets and seeds; digits alone if `quick`."""
    for dataset in () if quick else ("mnist", "fashion-mnist"):
        part = {"name": dataset, "train_samples": samples, "test_samples": 3000}
        base = {**BASE, "dataset": part, "attack": ATTACK, "data_dir": data_dir or None}
        yield from (Task(dataset, seed, base, BEFORE) for seed in range(seeds))
    base = {**BASE, "model": "mlp", "lr": 0.2, "local_epochs": 2, "server_samples": 60}
    base |= {"dataset": "digits", "attack": {**ATTACK, "size": 2, "scale": 2.0}}
    yield from (Task("digits", seed, base, 20) for seed in range(seeds))


def told(task: Task) -> str:
    """Return a task's setting in two sentences."""
    base, part = task.base, task.base["dataset"]
    kept = ""
    if isinstance(part, Mapping):
        kept = f"{part['train_samples']:,} training and {part['test_samples']:,} test images; "
    side = base["attack"]["size"]
    epochs = (
        "1 local epoch" if base["local_epochs"] == 1 else f"{base['local_epochs']} local epochs"
    )
    return (
        f"{kept}10 clients, Dirichlet 0.5, {base['model']}, lr {base['lr']}, "
        f"batch {base['batch_size']}, {epochs}, {task.before} rounds "
        "before the request. One client, drawn by the seed, stamps half of its rows (badnets, "
        f"{side} x {side} pixels, target 0) and doubles its updates."
    )
