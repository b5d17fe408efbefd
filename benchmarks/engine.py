"""The engine beside a plain PyTorch loop and Flower's simulation runtime, in one run.

    python benchmarks/engine.py [--only noop startup logistic mlp cnn memory] [--data-dir DIR]
                                [--repeats 5] [--flower-rounds 4] [--threads N] [--no-flower]
                                [--quick]

Work is the same for all: model, data, clients, batches per client, learning rate; FedAvg. fedguard
and the loop take turns, `--repeats` times after one round to warm up. Flower's runtime takes 12 to
60 s to start, so it runs once per work with `--flower-rounds` rounds; its steady state is the
median from round 2 on. Ratios are Flower's or the loop's seconds over fedguard's. The time
from the start of a process to the end of the last of those rounds is taken too, each side in a
process of its own.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord
from torch import Tensor, nn
from torch.nn import functional

from fedguard.attacks.base import Attack
from fedguard.clients.executors import Cohort, Executor, Trained
from fedguard.clients.federation import Federation
from fedguard.clients.planner import make_executor, plan
from fedguard.clients.training import ClientTrainer, TrainingSettings
from fedguard.config import parse
from fedguard.data.dataset import Dataset
from fedguard.grids.inprocess import InProcessGrid
from fedguard.models.build import build
from fedguard.strategies.fedavg import FedAvg

WORKS = ("noop", "startup", "logistic", "mlp", "cnn", "memory")
PEER = Path(__file__).parent / "peers" / "flower_plain.py"
LR = 0.05


@dataclass(frozen=True)
class Work:
    """What is trained: `clients` shards of `shard` rows, one epoch in batches of `batch`."""

    model: str
    clients: int
    shard: int
    batch: int
    cohort: int


class NoOp(Executor):
    """Clients that return what they got."""

    def train(self, cohort: Cohort, deltas: Tensor) -> Trained:
        """Return zeros."""
        count = len(cohort.clients)
        deltas.zero_()
        return Trained(torch.ones(count, dtype=torch.float64), [0.0] * count)


def examples(options: argparse.Namespace, count: int) -> tuple[Tensor, Tensor]:
    """Return `count` rows of MNIST, or noise of its shape where no folder is given."""
    if options.data_dir is None:
        return noise(count, 28)
    from fedguard.assembly.make import load_dataset

    found = load_dataset(parse({"dataset": "mnist", "data_dir": str(options.data_dir)}))
    return found.x_train[:count].contiguous(), found.y_train[:count].contiguous()


def noise(count: int, side: int) -> tuple[Tensor, Tensor]:
    """Return noise as square pictures of one channel, with labels."""
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(count, 1, side, side, generator=stream)
    return x, torch.randint(0, 10, (count,), generator=stream)


class Ours:
    """One federation of fedguard, round by round, messages and aggregation included."""

    def __init__(self, work: Work, x: Tensor, y: Tensor, threads: int | None = None) -> None:
        names = tuple("0123456789")
        data = Dataset("bench", x, y, x[:10], y[:10], 10, names, (0.0,), (1.0,))
        shards = [
            torch.arange(k * work.shard, (k + 1) * work.shard) % len(y) for k in range(work.clients)
        ]
        none = torch.empty(0, dtype=torch.long)
        federation = Federation(data, shards, frozenset(), Attack(), 0, none)
        settings = TrainingSettings(LR, 0.0, 0.0, 1, work.batch)
        name = "mlp" if work.model == "none" else work.model
        trainer = ClientTrainer(build(name, tuple(x.shape[1:]), 10, 0), federation, settings, 0)
        share = work.cohort / work.clients
        config = parse(
            {"clients": work.clients, "fraction": share, "executor": "auto", "workers": threads}
        )
        self.plan = plan(config, trainer)
        chosen = NoOp(trainer) if work.model == "none" else make_executor(self.plan, trainer)
        self.grid = InProcessGrid(trainer, executor=chosen)
        self.strategy = FedAvg(
            fraction_train=share,
            min_train_nodes=work.cohort,
            min_available_nodes=work.clients,
        )
        # As in every run, whose records hold what clients report.
        self.strategy.observers.append(lambda *verdict: None)
        self.arrays = ArrayRecord(trainer.model.module.state_dict())
        self.rounds = 0

    def round(self) -> None:
        """Run one round."""
        self.rounds += 1
        messages = self.strategy.configure_train(
            self.rounds, self.arrays, ConfigRecord(), self.grid
        )
        replies = self.grid.send_and_receive(messages)
        arrays, _ = self.strategy.aggregate_train(self.rounds, replies)
        self.arrays = arrays or self.arrays


class Loop:
    """The plain per-client PyTorch loop: one network, one optimiser per client, a mean."""

    def __init__(self, work: Work, x: Tensor, y: Tensor) -> None:
        self.work, self.x, self.y = work, x, y
        self.model: nn.Module = build(work.model, (1, 28, 28), 10, 0)
        self.state = {k: v.clone() for k, v in self.model.state_dict().items()}

    def round(self) -> None:
        """Train every client and average."""
        size, total = self.work.shard, {k: torch.zeros_like(v) for k, v in self.state.items()}
        for client in range(self.work.cohort):
            rows = slice(client * size, (client + 1) * size)
            x, y = self.x[rows], self.y[rows]
            self.model.load_state_dict(self.state)
            optimiser = torch.optim.SGD(self.model.parameters(), lr=LR)
            for batch in torch.randperm(size).split(self.work.batch):
                optimiser.zero_grad()
                functional.cross_entropy(self.model(x[batch]), y[batch]).backward()
                optimiser.step()
            for name, value in self.model.state_dict().items():
                total[name] += value
        self.state = {name: value / self.work.cohort for name, value in total.items()}


def seconds(do: Callable[[], None]) -> float:
    """Return how long something takes."""
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


def spread(values: list[float], scale: float = 1.0, digits: int = 3) -> str:
    """Return min / median / max."""
    found = (min(values), statistics.median(values), max(values))
    return " / ".join(f"{scale * value:.{digits}f}" for value in found)


def flower(work: Work, x: Tensor, y: Tensor, rounds: int) -> list[float]:
    """Return when each round of Flower's runtime ended, from the start of its process."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "x.npy", x.numpy())
        np.save(Path(folder) / "y.npy", y.numpy())
        spec = {
            "model": work.model,
            "clients": work.clients,
            "cohort": work.cohort,
            "shard": work.shard,
            "batch": work.batch,
            "epochs": 1,
            "lr": LR,
            "rounds": rounds,
            "folder": folder,
            "features": x[0].numel(),
        }
        path = Path(folder) / "spec.json"
        path.write_text(json.dumps(spec))
        done = subprocess.run(
            [sys.executable, str(PEER), str(path)], capture_output=True, text=True, check=False
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"ended"')]
    if not lines:
        print("  Flower's runtime failed:", done.stderr.strip()[-200:])
        return []
    return list(json.loads(lines[-1])["ended"])


def tell_flower(ended: list[float], ours: float, per: int = 1, unit: str = "s") -> None:
    """Print Flower's start and steady state, and the ratio to ours."""
    if len(ended) < 3:
        return
    rounds = [after - before for before, after in pairwise(ended[1:])]
    scale = {"s": 1.0, "ms": 1e3}[unit] / per
    ratios = [value / ours for value in rounds]
    print(
        f"  Flower's runtime   {spread(rounds, scale)} {unit}  (end of round 1: {ended[1]:.1f} s)"
    )
    print(f"  Flower / fedguard  {spread(ratios, 1.0, 1)}")


def training(work: Work, options: argparse.Namespace) -> None:
    """Measure one training work: fedguard and the loop in turns, then Flower."""
    x, y = examples(options, work.clients * work.shard)
    ours = Ours(work, x, y, options.threads)
    if options.rounds:
        for _ in range(options.rounds):
            ours.round()
        return
    loop = Loop(work, x, y)
    print(
        f"{work.model}: {work.cohort} clients x {work.shard}, batch {work.batch}; executor "
        f"{ours.plan.executor} ({ours.plan.reason}), {ours.plan.threads} threads"
    )
    ours.round()
    loop.round()
    times: dict[str, list[float]] = {"fedguard": [], "loop": []}
    for _ in range(options.repeats):
        times["fedguard"].append(seconds(ours.round))
        times["loop"].append(seconds(loop.round))
    ratios = [b / a for a, b in zip(times["fedguard"], times["loop"], strict=True)]
    for name, values in times.items():
        print(f"  {name:18s} {spread(values)} s a round")
    print(f"  loop / fedguard    {spread(ratios, 1.0, 2)}", flush=True)
    if work.model == "cnn":
        physical_limit(work, statistics.median(times["fedguard"]), statistics.median(times["loop"]))
    if not options.no_flower:
        rounds = options.flower_rounds
        ended = flower(work, x, y, rounds)
        tell_flower(ended, statistics.median(times["fedguard"]))
        if len(ended) > rounds:
            whole = [from_start(work, options) for _ in range(options.flower_starts)]
            ours_whole = statistics.median(whole)
            print(
                f"  from start to the end of round {rounds}: fedguard {spread(whole, 1.0, 1)} s, "
                f"Flower {ended[rounds]:.1f} s, ratio {ended[rounds] / ours_whole:.1f}",
                flush=True,
            )


def from_start(work: Work, options: argparse.Namespace) -> float:
    """Return the seconds of a process of ours that runs as many rounds as Flower's."""
    command = [
        sys.executable,
        __file__,
        "--only",
        work.model,
        "--rounds",
        str(options.flower_rounds),
    ]
    command += ["--quick"] if options.quick else []
    command += ["--data-dir", str(options.data_dir)] if options.data_dir else []
    command += ["--threads", str(options.threads)] if options.threads else []
    return seconds(lambda: subprocess.run(command, capture_output=True, check=True))


def physical_limit(work: Work, ours: float, loop: float) -> None:
    """Print the share of this machine's matrix-product rate that the cnn's training reaches."""
    # Multiply-adds of one forward pass on a 28 x 28 image; training costs three, less the
    # gradient of the input of the first layer.
    first, rest = 12 * 12 * 16 * 25, 4 * 4 * 32 * 16 * 9 + 512 * 64 + 64 * 10
    per_image = 2 * (2 * first + 3 * rest)
    total = per_image * work.cohort * work.shard
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    torch.mm(a, b)
    rate = 2 * 1024**3 / min(seconds(lambda: torch.mm(a, b)) for _ in range(20))
    source = torch.randn(32 << 20)
    target = torch.empty_like(source)
    copied = 8 * (32 << 20) / min(seconds(lambda: target.copy_(source)) for _ in range(5))
    print(
        f"  matrix products {rate / 1e9:.0f} GFLOP/s on {torch.get_num_threads()} threads, copying "
        f"{copied / 1e9:.1f} GB/s; fedguard reaches {100 * total / ours / rate:.0f} %, the loop "
        f"{100 * total / loop / rate:.0f} %",
        flush=True,
    )


def noop(options: argparse.Namespace) -> None:
    """Measure what a message costs where clients do nothing."""
    clients = 1000 if options.quick else 10_000
    work = Work("none", clients, 1, 1, 100)
    x, y = noise(clients, 8)
    ours = Ours(work, x, y)
    ours.round()
    times = [seconds(ours.round) for _ in range(max(20, options.repeats))]
    print(f"no-op: {clients} clients registered, 100 a round, digits mlp")
    print(f"  fedguard           {spread(times, 10.0)} ms a client", flush=True)
    if not options.no_flower:
        ended = flower(work, x[:1], y[:1], options.flower_rounds)
        tell_flower(ended, statistics.median(times), per=100, unit="ms")


def startup(options: argparse.Namespace) -> None:
    """Measure the command from its start until round 1 is written down, on digits."""
    print("start of the command to the end of round 1: digits, mlp, 20 clients, fedavg")
    engines = ["inprocess"] if options.no_flower else ["inprocess", "flower"]
    found: dict[str, list[float]] = {name: [] for name in engines}
    for repeat in range(1 if options.quick else options.repeats):
        for name in engines:
            if name == "flower" and repeat >= options.flower_starts:
                continue
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "-m", "fedguard.simulate", "--strategy", "fedavg"]
                command += ["--rounds", "1", "--engine", name, "--out", f"{folder}/run"]
                started = time.time()
                subprocess.run(command, capture_output=True, check=True)
                written = Path(folder, "run", "rounds.jsonl").stat().st_mtime
                found[name].append(written - started)
    for name, values in found.items():
        print(f"  {name:18s} {spread(values, 1.0, 1)} s", flush=True)
    if "flower" in found:
        ratio = statistics.median(found["flower"]) / statistics.median(found["inprocess"])
        print(f"  Flower / fedguard  {ratio:.1f}")


def memory(options: argparse.Namespace) -> None:
    """Run 10,000 clients with 500 a round and print the resident memory as rounds pass."""
    clients, cohort, rounds = (500, 50, 8) if options.quick else (10_000, 500, 50)
    work = Work("mlp", clients, 6, 10, cohort)
    x, y = noise(6 * clients, 8)
    ours = Ours(work, x, y)
    started, seen = time.perf_counter(), []
    for _ in range(rounds):
        ours.round()
        seen.append(resident())
    print(
        f"memory: {clients} clients x 6 rows, {cohort} a round, {rounds} rounds, digits mlp, "
        f"{time.perf_counter() - started:.1f} s; resident after round 1: {seen[0]:.0f} MB, "
        f"round 5: {seen[4]:.0f} MB, last: {seen[-1]:.0f} MB, peak "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB",
        flush=True,
    )


def resident() -> float:
    """Return this process's resident memory in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def run(name: str, options: argparse.Namespace) -> None:
    """Run one work."""
    few = options.quick
    if name in ("logistic", "mlp"):
        training(Work(name, 20 if few else 100, 60, 10, 20 if few else 100), options)
    elif name == "cnn":
        training(Work("cnn", 4 if few else 100, 64 if few else 600, 32, 4 if few else 100), options)
    else:
        {"noop": noop, "startup": startup, "memory": memory}[name](options)


def main(arguments: list[str] | None = None) -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--flower-rounds", type=int, default=4)
    parser.add_argument("--flower-starts", type=int, default=2)
    parser.add_argument("--threads", type=int, help="clients or groups trained at once")
    parser.add_argument("--no-flower", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, load "
        f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores",
        flush=True,
    )
    for name in options.only:
        run(name, options)


if __name__ == "__main__":
    main()
