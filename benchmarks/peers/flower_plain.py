"""A plain federation on Flower's simulation runtime, for `engine.py`; prints one JSON line.

    python flower_plain.py SPEC.json

It uses Flower's public API alone: a ClientApp with a PyTorch loop, FedAvg, `run_simulation`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

STARTED = time.time()
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402
from flwr.serverapp import Grid, ServerApp  # noqa: E402
from flwr.serverapp.strategy import FedAvg  # noqa: E402
from flwr.simulation import run_simulation  # noqa: E402
from torch import nn  # noqa: E402

SPEC: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())


def network(name: str, features: int) -> nn.Module:
    """Return the same networks as fedguard's logistic, mlp, cnn and resnet18, or pfl's."""
    if name == "resnet18":
        from fedguard.models.build import build

        return build("resnet18", (3, 32, 32), 10, 0)
    if name == "two-convolutions":
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
    if name == "logistic":
        return nn.Sequential(nn.Flatten(), nn.Linear(features, 10))
    if name == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(features, 128), nn.ReLU(), nn.Linear(128, 10))
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, 2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def examples(folder: str, client: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one client's rows; the file is mapped, so only those are read."""
    rows = slice(client * size, (client + 1) * size)
    x, y = (np.load(Path(folder) / f"{name}.npy", mmap_mode="r")[rows] for name in "xy")
    return torch.from_numpy(np.array(x)), torch.from_numpy(np.array(y))


class Counting(FedAvg):
    """FedAvg that stops where a client failed: a failed client takes no time."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """Average; see FedAvg."""
        found = list(replies)
        failed = [reply for reply in found if reply.has_error()]
        if failed:
            raise SystemExit(f"{len(failed)} of {len(found)} clients failed: {failed[0].error}")
        return super().aggregate_train(server_round, found)


def make_client_app(spec: dict[str, Any]) -> ClientApp:
    """Return the app of one client."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        size = spec["shard"]
        if spec["model"] == "none":
            content = RecordDict(
                {"arrays": message.content["arrays"], "m": MetricRecord({"num-examples": 1})}
            )
            return Message(content, reply_to=message)
        torch.set_num_threads(1)
        x, y = examples(spec["folder"], client, size)
        device = torch.device(spec.get("device", "cpu"))
        x, y = x.to(device), y.to(device)
        model = network(spec["model"], x[0].numel()).to(device)
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        optimiser = torch.optim.SGD(model.parameters(), lr=spec["lr"])
        for _ in range(spec["epochs"]):
            for rows in torch.randperm(size).split(spec["batch"]):
                optimiser.zero_grad()
                nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimiser.step()
        content = RecordDict(
            {
                "arrays": ArrayRecord(model.state_dict()),
                "m": MetricRecord({"num-examples": size}),
            }
        )
        return Message(content, reply_to=message)

    return app


def share_of_gpu(spec: dict[str, Any]) -> float:
    """Return the share of a GPU that a client takes: eight of them share one."""
    return 0.125 if str(spec.get("device", "cpu")).startswith("cuda") else 0.0


def main() -> None:
    """Run the federation and print when each round ended, in seconds from the start."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    spec, ended = SPEC, []
    server = ServerApp()

    @server.main()
    def serve(grid: Grid, context: Context) -> None:
        model = network("mlp" if spec["model"] == "none" else spec["model"], spec["features"])
        strategy = Counting(
            fraction_train=spec["cohort"] / spec["clients"],
            fraction_evaluate=0.0,
            min_train_nodes=spec["cohort"],
            min_evaluate_nodes=0,
            min_available_nodes=spec["clients"],
        )

        def note(server_round: int, arrays: ArrayRecord) -> MetricRecord:
            ended.append(time.time() - STARTED)
            return MetricRecord({"accuracy": 0.0})

        strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord(model.state_dict()),
            num_rounds=spec["rounds"],
            evaluate_fn=note,
        )

    run_simulation(
        server,
        make_client_app(spec),
        num_supernodes=spec["clients"],
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": share_of_gpu(spec)}},
    )
    print(json.dumps({"ended": ended}))


if __name__ == "__main__":
    main()
