"""fedguard beside pfl-research, users per second on pfl's CIFAR-10 set-up, in one run.

    python benchmarks/pfl.py --peer-python benchmarks/peers/.venv-pfl/bin/python
                             [--repeats 5] [--rounds 3] [--threads 2] [--quick]

1000 users x 50 pictures of 3 x 32 x 32, 50 users a round, batch 10, one epoch, two convolutions.
The pictures are noise: their values do not change what a step costs. The two take turns, one
process of pfl per turn; its first iteration, which warms up, does not count.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord
from torch import Tensor, nn

from fedguard.attacks.base import Attack
from fedguard.clients.federation import Federation
from fedguard.clients.planner import Plan, make_executor
from fedguard.clients.training import ClientTrainer, TrainingSettings
from fedguard.data.dataset import Dataset
from fedguard.grids.inprocess import InProcessGrid
from fedguard.strategies.fedavg import FedAvg

PEER = Path(__file__).parent / "peers" / "pfl_plain.py"
SHARD, BATCH, LR = 50, 10, 0.05


def network() -> nn.Module:
    """Return two 3 x 3 convolutions, pooling, one hidden layer."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 14 * 14, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


class Ours:
    """The federation in fedguard, round by round."""

    def __init__(self, x: Tensor, y: Tensor, users: int, cohort: int, threads: int) -> None:
        names = tuple("0123456789")
        data = Dataset("noise", x, y, x[:10], y[:10], 10, names, (0.0,) * 3, (1.0,) * 3)
        shards = [torch.arange(k * SHARD, (k + 1) * SHARD) for k in range(users)]
        none = torch.empty(0, dtype=torch.long)
        federation = Federation(data, shards, frozenset(), Attack(), 0, none)
        settings = TrainingSettings(LR, 0.0, 0.0, 1, BATCH)
        trainer = ClientTrainer(network(), federation, settings, 0)
        self.grid = InProcessGrid(
            trainer, executor=make_executor(Plan("conv", "", threads), trainer)
        )
        self.strategy = FedAvg(
            fraction_train=cohort / users, min_train_nodes=cohort, min_available_nodes=users
        )
        self.arrays = ArrayRecord(trainer.model.module.state_dict())
        self.rounds = 0

    def round(self) -> float:
        """Run one round; return its seconds."""
        started = time.perf_counter()
        self.rounds += 1
        messages = self.strategy.configure_train(
            self.rounds, self.arrays, ConfigRecord(), self.grid
        )
        replies = self.grid.send_and_receive(messages)
        arrays, _ = self.strategy.aggregate_train(self.rounds, replies)
        self.arrays = arrays or self.arrays
        return time.perf_counter() - started


def theirs(options: argparse.Namespace, folder: str, users: int, cohort: int) -> list[float]:
    """Return the seconds of pfl's iterations, the first left out."""
    spec = {
        "folder": folder,
        "clients": users,
        "cohort": cohort,
        "shard": SHARD,
        "batch": BATCH,
        "lr": LR,
        "rounds": options.rounds + 1,
        "threads": options.threads,
    }
    path = Path(folder) / "spec.json"
    path.write_text(json.dumps(spec))
    done = subprocess.run(
        [str(options.peer_python), str(PEER), str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"rounds"')]
    if not lines:
        raise SystemExit(f"pfl failed: {done.stderr.strip()[-400:]}")
    return list(json.loads(lines[-1])["rounds"][1:])


def main() -> None:
    """Measure both in turns and print users per second and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    users, cohort = (20, 4) if options.quick else (1000, 50)
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(users * SHARD, 3, 32, 32, generator=stream)
    y = torch.randint(0, 10, (users * SHARD,), generator=stream)
    ours = Ours(x, y, users, cohort, options.threads)
    ours.round()
    found: dict[str, list[float]] = {"fedguard": [], "pfl": []}
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "x.npy", x.numpy())
        np.save(Path(folder) / "y.npy", y.numpy())
        for _ in range(options.repeats):
            found["fedguard"].append(statistics.median(ours.round() for _ in range(options.rounds)))
            found["pfl"].append(statistics.median(theirs(options, folder, users, cohort)))
    print(
        f"torch {torch.__version__}; {cohort} of {users} users a round, {options.threads} threads"
    )
    for name, values in found.items():
        rates = sorted(cohort / value for value in values)
        print(
            f"  {name:9s} {rates[0]:.1f} / {statistics.median(rates):.1f} / {rates[-1]:.1f} users/s"
        )
    ratios = sorted(b / a for a, b in zip(found["fedguard"], found["pfl"], strict=True))
    print(f"  ratio     {ratios[0]:.2f} / {statistics.median(ratios):.2f} / {ratios[-1]:.2f}")


if __name__ == "__main__":
    main()
