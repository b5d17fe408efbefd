"""One command for one GPU, within six minutes: does it give the CPU's results, and how fast is it.

    python -m benchmarks.gpu [--only engines rules attacks speed] [--device cuda] [--seconds 360]
                             [--names median krum ...] [--flower] [--peer-python PYTHON]
                             [--small] [--out gpu.md]

Checks: every executor on networks that it serves, every rule and every attack of horizontal
learning as whole runs on both devices, and every rule that can on a matrix that lies on the device.
What counts is the largest difference relative to the largest entry, at most 1e-4, and the same
clients accepted in every round. Measurements: 100 clients x the two convolutions of pfl's benchmark
and x resnet18 beside a plain loop (and Flower's runtime, with ``--flower``), pfl's CIFAR benchmark
(and pfl-research, with ``--peer-python``), each rule at 100 x 11 M. Beside each stands its target;
the targets are those of one H100. What there was no time left for is told, never left out.

``--device cpu --small`` runs the same code on small sizes, so that it is ready where a GPU is.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import gpu_peers
from benchmarks.pfl import network
from fedguard import registry
from fedguard.attacks.base import Attack
from fedguard.clients.batched import BatchedExecutor
from fedguard.clients.executors import Cohort, Executor
from fedguard.clients.federation import Federation
from fedguard.clients.planner import make_executor, plan
from fedguard.clients.training import ClientTrainer, TrainingSettings
from fedguard.config import parse
from fedguard.data.dataset import Dataset
from fedguard.errors import ConfigurationError, RunError
from fedguard.models.build import build
from fedguard.records.writer import read_jsonl
from fedguard.runs.simulation import Simulation
from fedguard.testing import honest_updates, with_deltas
from fedguard.testing.deciding import prepare
from fedguard.traits import traits_of
from fedguard.updates import ClientUpdates

TOLERANCE = 1e-4
ENCRYPTED = 1e-2
"""Of strategies whose sums carry noise or are rounded anew in every run, on one device too."""

PARTS = ("engines", "rules", "attacks", "speed")
PFL_ROUND, RESNET_ROUND = 0.015, 4.5
"""Seconds of a round on one H100: pfl's benchmark (limit 3 to 5 ms), 100 x resnet18 (1.35 s)."""

BANDWIDTH = 3.35e12
"""Bytes a second of an H100's memory; a rule reads its matrix once at the least."""

EXECUTORS = (("mlp", "dense"), ("mlp", "vmap"), ("mlp", "reuse"), ("cnn", "vmap"), ("cnn", "reuse"))
WORLDS = ("digits", "graph-sample", "clicks-sample", "retrieval", "grammar", "preferences")
"""Data sets that come with the package, of one task each; an attack runs on the first it serves."""


NEEDS: dict[str, dict[str, Any]] = {
    "bnguard": {"model": "conv-bn"},
    "group-flip": {"attack": {"name": "group-flip", "feature": 20, "above": 0.5}},
}
"""What a part needs beside its name; text-trigger and bad-encoder need files and are told so."""


@dataclass
class Report:
    """Lines of the report, and the time that is left."""

    ends: float
    lines: list[str] = field(default_factory=list)
    missed: int = 0

    def say(self, line: str) -> None:
        """Print a line and keep it."""
        self.lines.append(line)
        print(line, flush=True)

    def out_of_time(self, what: str) -> bool:
        """Return whether no time is left, and say what was not done."""
        late = time.monotonic() > self.ends
        if late:
            self.say(f"| {what} | not done: no time left | |")
        return late

    def row(self, what: str, found: str, target: str, holds: bool | None) -> None:
        """Tell a figure beside its target; None where there is no target to hold."""
        word = {True: "met", False: "MISSED", None: ""}[holds]
        self.missed += holds is False
        self.say(f"| {what} | {found} | {' '.join(part for part in (target, word) if part)} |")


# --- checks --------------------------------------------------------------------------------------


def federation_of(
    clients: int, rows: int, shape: tuple[int, ...], device: torch.device
) -> Federation:
    """Return clients with noise as pictures."""
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(clients * rows, *shape, generator=stream)
    y = torch.randint(0, 10, (len(x),), generator=stream)
    names, channels = tuple("0123456789"), shape[0]
    zero, one = (0.0,) * channels, (1.0,) * channels
    data = Dataset("noise", x, y, x[:10], y[:10], 10, names, zero, one)
    shards = [torch.arange(k * rows, (k + 1) * rows) for k in range(clients)]
    none = torch.empty(0, dtype=torch.long)
    return Federation(data, shards, frozenset(), Attack(), 0, none, device=device)


def trainer_of(model: nn.Module, federation: Federation, batch: int, epochs: int) -> ClientTrainer:
    """Return a trainer of plain SGD."""
    settings = TrainingSettings(0.05, 0.0, 0.0, epochs, batch)
    return ClientTrainer(model.to(federation.device), federation, settings, 0)


def executor_of(name: str, trainer: ClientTrainer, clients: int) -> Executor:
    """Return an executor by name, or by what the planner picks for ``auto``."""
    return make_executor(plan(parse({"clients": clients, "executor": name}), trainer), trainer)


def trained(trainer: ClientTrainer, executor: Executor, clients: int) -> Tensor:
    """Return the deltas of one round."""
    vector = trainer.global_vector()
    deltas = torch.empty(clients, len(vector), device=vector.device)
    executor.train(Cohort(tuple(range(clients)), 1, vector), deltas)
    return deltas


def difference(found: Tensor, wanted: Tensor) -> float:
    """Return the largest difference over the largest entry."""
    found, wanted = found.double().cpu(), wanted.double().cpu()
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))


def check_engines(report: Report, options: argparse.Namespace) -> None:
    """Compare every executor on the device with the plain one on the CPU."""
    clients = 4 if options.small else 16
    for model, name in EXECUTORS:
        if report.out_of_time(f"engine {name}, {model}"):
            continue
        deltas = []
        for device, executor in (("cpu", "reuse"), (options.device, name)):
            shape = (1, 28, 28)
            federation = federation_of(clients, 20, shape, torch.device(device))
            trainer = trainer_of(build(model, shape, 10, 0), federation, 10, 1)
            made = executor_of(executor, trainer, clients)
            if executor != "reuse" and not isinstance(made, BatchedExecutor):
                raise SystemExit(f"{executor} does not serve {model} on {device}")
            deltas.append(trained(trainer, made, clients))
            made.close()
        gap = difference(deltas[1], deltas[0])
        report.row(f"engine {name}, {model}", f"{gap:.1e}", f"{TOLERANCE:g}", gap <= TOLERANCE)


def values_of(kind: str, name: str, dataset: str, device: str) -> dict[str, Any]:
    """Return the configuration of one small run."""
    return {
        "strategy": "multi-krum",
        "attack": "sign-flip" if dataset == "digits" else "none",
        kind: name,
        "dataset": dataset,
        "device": device,
        "clients": 8,
        "malicious": 0.25,
        "rounds": 2,
        "local_epochs": 1,
        "partition": "iid",
        "executor": "reuse",
        **NEEDS.get(name, {}),
    }


def one_run(kind: str, name: str, dataset: str, device: str) -> tuple[Tensor, list[Any]]:
    """Return a run's model, and which clients were accepted in which round."""
    made = Simulation(parse(values_of(kind, name, dataset, device)))
    with tempfile.TemporaryDirectory() as folder:
        made.run(Path(folder))
        accepted = [
            (record["round"], record["client"], record["accepted"])
            for record in read_jsonl(Path(folder) / "clients.jsonl")
        ]
    vector = torch.cat([value.double().flatten().cpu() for value in made.world.tensors().values()])
    return vector, accepted


def both_runs(kind: str, name: str, device: str) -> tuple[float, bool, str]:
    """Return how far apart the two devices' models are, whether verdicts agree, and the world.

    Raises
    ------
    ConfigurationError
        If no data set that comes with the package is one that the part serves.
    """
    reason: Exception | None = None
    for dataset in WORLDS:
        try:
            model, accepted = one_run(kind, name, dataset, "cpu")
        except (ConfigurationError, RunError) as error:
            reason = reason or error
            continue
        other, again = one_run(kind, name, dataset, device)
        return difference(other, model), accepted == again, dataset
    raise ConfigurationError(kind, name, f"another world ({reason})")


def check_runs(report: Report, options: argparse.Namespace, kind: str) -> None:
    """Run every part of a kind on both devices."""
    for name in registry.names(kind):
        if traits_of(registry.find(kind, name)).world == "vertical":
            continue
        if options.names and name not in options.names:
            continue
        if report.out_of_time(f"{kind} {name}"):
            continue
        try:
            gap, same, dataset = both_runs(kind, name, options.device)
        except (ConfigurationError, RunError) as error:
            report.row(f"{kind} {name}", f"not checked: {str(error)[:110]}", "", None)
            continue
        told = f"{gap:.1e}, {'same' if same else 'other'} verdicts ({dataset})"
        sums = kind == "strategy" and traits_of(registry.find(kind, name)).visible == "sum"
        bar = ENCRYPTED if sums else TOLERANCE
        good = gap <= bar and same
        report.row(f"{kind} {name}", told, f"{bar:g}, same verdicts", good)


def rules(options: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the rules that decide on plain updates, by name, with what makes each."""
    for name in registry.names("strategy"):
        found = traits_of(registry.find("strategy", name))
        plain = found.rule and found.world == "horizontal" and not found.client_side
        if not plain or found.requests or (options.names and name not in options.names):
            continue
        yield name, lambda name=name: prepare(lambda: registry.create("strategy", name))


def check_rules_on_device(report: Report, options: argparse.Namespace) -> None:
    """Let rules decide on a matrix that lies on the device."""
    updates = honest_updates(10, seed=1)
    there = with_deltas(updates, updates.deltas.to(options.device))
    for name, make in rules(options):
        if report.out_of_time(f"{name} on the device's matrix"):
            continue
        try:
            wanted, found = make().decide(updates), make().decide(there)
        except Exception as error:  # what is not ready for a device is told, one by one
            told = " ".join(f"{type(error).__name__}: {error}".split())[:90]
            report.row(f"{name} on the device's matrix", told, "no error", False)
            continue
        gap = difference(found.delta, wanted.delta)
        same = torch.equal(found.weights.cpu() > 0, wanted.weights > 0)
        told = f"{gap:.1e}, {'same' if same else 'other'} verdicts"
        good = gap <= TOLERANCE and same
        report.row(f"{name} on the device's matrix", told, f"{TOLERANCE:g}, same verdicts", good)


# --- measurements --------------------------------------------------------------------------------


def seconds(do: Callable[[], Any], device: str, repeats: int) -> list[float]:
    """Return how long something takes, several times, after once to warm up."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else (lambda: None)
    found = []
    for turn in range(repeats + 1):
        started = time.perf_counter()
        do()
        wait()
        if turn:
            found.append(time.perf_counter() - started)
    return found


@dataclass(frozen=True)
class Work:
    """One measurement: clients, their rows, shape, batch and epochs, and its target in seconds."""

    name: str
    make: Callable[[], nn.Module]
    clients: int
    rows: int
    batch: int
    epochs: int
    target: float | None = None
    shape: tuple[int, int, int] = (3, 32, 32)


def works(small: bool) -> list[Work]:
    """Return what is measured."""

    def resnet() -> nn.Module:
        return build("resnet18", (3, 32, 32), 10, 0)

    two = network
    if small:
        return [
            Work("two convolutions, 3 clients", two, 3, 10, 5, 1),
            Work("resnet18, 2 clients", resnet, 2, 4, 4, 1, RESNET_ROUND),
            Work("pfl's benchmark, 2 users", two, 2, 10, 10, 1, PFL_ROUND),
        ]
    return [
        Work("two convolutions, 100 clients x 400 rows, batch 50, 5 passes", two, 100, 400, 50, 5),
        Work("pfl's benchmark, 50 users x 50 pictures, batch 10", two, 50, 50, 10, 1, PFL_ROUND),
        Work(
            "resnet18, 100 clients x 400 rows, batch 50, 5 passes",
            resnet,
            100,
            400,
            50,
            5,
            RESNET_ROUND,
        ),
    ]


def measure_training(report: Report, options: argparse.Namespace, work: Work) -> None:
    """Measure a work: fedguard's choice of executor, the plain loop, and peers where asked for."""
    device = torch.device(options.device)
    federation = federation_of(work.clients, work.rows, work.shape, device)
    trainer = trainer_of(work.make(), federation, work.batch, work.epochs)
    executor = executor_of("auto", trainer, work.clients)
    repeats = 1 if options.small or work.target == RESNET_ROUND else 3
    own = seconds(
        lambda: trained(trainer, executor, work.clients).mean(dim=0), options.device, repeats
    )
    executor.close()
    median = statistics.median(own)
    target = "" if work.target is None else f"{work.target:g} s on one H100"
    holds = None if work.target is None else median <= work.target
    report.row(f"{work.name} ({executor.name})", f"{median:.4f} s a round", target, holds)
    few = min(work.clients, 2 if options.small else 10)
    data, shards = federation.dataset, federation.shards
    x, y = data.x_train.to(device), data.y_train.to(device)
    loop = seconds(
        lambda: gpu_peers.plain_loop(work.make, x, y, shards[:few], work.batch, work.epochs),
        options.device,
        1,
    )
    whole = loop[0] * work.clients / few
    told = f"{whole:.4f} s a round (from {few} clients), {whole / median:.2f} x fedguard's"
    report.row(f"{work.name}, plain loop", told, "at least 1 x", whole >= 0.98 * median)
    if options.flower:
        theirs = gpu_peers.flower_round(work, options.device)
        told = theirs if isinstance(theirs, str) else f"{theirs:.3f} s, {theirs / median:.1f} x"
        report.row(f"{work.name}, Flower's runtime", told, "", None)
    if options.peer_python and work.target == PFL_ROUND:
        theirs = gpu_peers.pfl_round(options.peer_python, work, options.device)
        told = theirs if isinstance(theirs, str) else f"{theirs:.3f} s, {theirs / median:.1f} x"
        report.row(f"{work.name}, pfl-research", told, "", None)


def measure_rules(report: Report, options: argparse.Namespace) -> None:
    """Measure the rules that need no model of the server on a large matrix on the device."""
    count, size = (10, 20_000) if options.small else (100, 11_000_000)
    stream = torch.Generator().manual_seed(2)
    rows = torch.empty(count, size)
    for row in rows:
        row.normal_(0.001, 0.01, generator=stream)
    updates = ClientUpdates.from_matrix(rows.to(options.device))
    limit = count * size * 4 / BANDWIDTH
    for name, make in rules(options):
        found = traits_of(registry.find("strategy", name))
        if found.tools or report.out_of_time(f"{name}, {count} x {size:,}"):
            continue
        fresh = ClientUpdates(
            updates.deltas,
            updates.num_examples,
            updates.node_ids,
            updates.global_vector,
            updates.layout,
        )
        try:
            rule = make()
            rule.layout = updates.layout
            taken = seconds(lambda rule=rule, own=fresh: _decide(rule, own), options.device, 1)[0]
            told = f"{1e3 * taken:.1f} ms"
        except Exception as error:  # some rules are for a model's layers alone
            told = " ".join(f"{type(error).__name__}: {error}".split())[:90]
        report.row(f"{name}, {count} x {size:,}", told, f"(limit {1e3 * limit:.2f} ms)", None)


def _decide(rule: Any, updates: ClientUpdates) -> None:
    updates.shared.clear()
    rule.decide(updates)


def main(arguments: list[str] | None = None) -> int:
    """Check and measure; return how many targets were missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--names", nargs="+", help="of rules and attacks; all if left out")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=345.0, help="after which nothing begins")
    parser.add_argument("--flower", action="store_true", help="Flower's runtime as well")
    parser.add_argument("--peer-python", type=Path, help="of an environment with pfl-research")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path, help="where to write the report")
    options = parser.parse_args(arguments)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("--device: no GPU is here; --device cpu --small tries the same on a CPU")
    gpu_peers.quiet()
    report = Report(time.monotonic() + options.seconds)
    card = torch.cuda.get_device_name() if options.device.startswith("cuda") else "a CPU"
    report.say(f"{card}, torch {torch.__version__}{', small' if options.small else ''}\n")
    report.say("| what | found | target |\n|---|---|---|")
    # Measurements first: a check that is missed for want of time can be asked for by name.
    if "speed" in options.only:
        for work in works(options.small):
            if not report.out_of_time(work.name):
                measure_training(report, options, work)
        measure_rules(report, options)
    if "engines" in options.only:
        check_engines(report, options)
    if "rules" in options.only:
        check_rules_on_device(report, options)
        check_runs(report, options, "strategy")
    if "attacks" in options.only:
        check_runs(report, options, "attack")
    report.say(f"\n{report.missed} targets missed")
    if options.out:
        options.out.write_text("\n".join(report.lines) + "\n")
    return report.missed


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
