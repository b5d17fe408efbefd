"""What `gpu.py` measures itself against: a plain loop, Flower's runtime, pfl-research."""

from __future__ import annotations

import json
import logging
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

PEERS = Path(__file__).parent / "peers"
LR = 0.05


def plain_loop(
    make: Callable[[], nn.Module],
    x: Tensor,
    y: Tensor,
    shards: Sequence[Tensor],
    batch: int,
    epochs: int,
) -> dict[str, Tensor]:
    """Train one client after the other and average; return the mean model."""
    model = make().to(x.device)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    total = {name: torch.zeros_like(value) for name, value in start.items()}
    for rows in shards:
        model.load_state_dict(start)
        optimiser = torch.optim.SGD(model.parameters(), lr=LR)
        for _ in range(epochs):
            for part in rows[torch.randperm(len(rows))].split(batch):
                chosen = part.to(x.device)
                optimiser.zero_grad()
                functional.cross_entropy(model(x[chosen]), y[chosen]).backward()
                optimiser.step()
        for name, value in model.state_dict().items():
            total[name] += value
    return {name: value / len(shards) for name, value in total.items()}


def quiet() -> None:
    """Let Flower speak of errors alone."""
    logging.getLogger("flwr").setLevel(logging.ERROR)


def _examples(work: Any, folder: str) -> None:
    import numpy as np

    stream = torch.Generator().manual_seed(0)
    x = torch.randn(work.clients * work.rows, *work.shape, generator=stream)
    y = torch.randint(0, 10, (len(x),), generator=stream)
    np.save(Path(folder) / "x.npy", x.numpy())
    np.save(Path(folder) / "y.npy", y.numpy())


def _answer(command: list[str], key: str) -> list[float] | str:
    """Return the list that a peer printed under a key, or why there is none."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(f'{{"{key}"')]
    if not lines:
        return f"failed: {(done.stderr.strip().splitlines() or ['no output'])[-1][:90]}"
    found: list[float] = json.loads(lines[-1])[key]
    return found


def flower_round(work: Any, device: str, rounds: int = 3) -> float | str:
    """Return the seconds of a round of Flower's runtime from the second on, or why it failed."""
    model = "resnet18" if "resnet18" in work.name else "two-convolutions"
    with tempfile.TemporaryDirectory() as folder:
        _examples(work, folder)
        spec = {
            "model": model,
            "clients": work.clients,
            "cohort": work.clients,
            "shard": work.rows,
            "batch": work.batch,
            "epochs": work.epochs,
            "lr": LR,
            "rounds": rounds,
            "folder": folder,
            "features": 3 * 32 * 32,
            "device": device,
        }
        path = Path(folder) / "spec.json"
        path.write_text(json.dumps(spec))
        ended = _answer([sys.executable, str(PEERS / "flower_plain.py"), str(path)], "ended")
    if isinstance(ended, str):
        return ended
    return statistics.median(after - before for before, after in pairwise(ended[1:]))


def pfl_round(python: Path, work: Any, device: str, rounds: int = 3) -> float | str:
    """Return the seconds of an iteration of pfl-research from the second on, or why it failed."""
    users = 20 * work.clients  # pfl's benchmark: 1,000 users, 50 a round
    with tempfile.TemporaryDirectory() as folder:
        _examples(_Users(users, work.rows, work.shape), folder)
        spec = {
            "folder": folder,
            "clients": users,
            "cohort": work.clients,
            "shard": work.rows,
            "batch": work.batch,
            "lr": LR,
            "rounds": rounds + 1,
            "threads": torch.get_num_threads(),
            "device": device,
        }
        path = Path(folder) / "spec.json"
        path.write_text(json.dumps(spec))
        found = _answer([str(python), str(PEERS / "pfl_plain.py"), str(path)], "rounds")
    return found if isinstance(found, str) else statistics.median(found[1:])


class _Users:
    """How many users hold how many pictures of which shape."""

    def __init__(self, clients: int, rows: int, shape: tuple[int, ...]) -> None:
        self.clients, self.rows, self.shape = clients, rows, shape
