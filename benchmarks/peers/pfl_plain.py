"""pfl-research's simulation of federated averaging, for `pfl.py`; prints one JSON line.

python pfl_plain.py SPEC.json        (in the environment of requirements-pfl.txt)
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from torch import nn


class Network(nn.Module):
    """Two 3 x 3 convolutions, pooling, one hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
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

    def loss(self, x: Any, y: Any, is_eval: bool = False) -> torch.Tensor:
        """Return the mean loss, as pfl asks for it."""
        found = self.layers(torch.as_tensor(x))
        return nn.functional.cross_entropy(found, torch.as_tensor(y))

    @torch.no_grad()
    def metrics(self, x: Any, y: Any) -> dict[str, Any]:
        """Return nothing."""
        return {}


class Clock(TrainingProcessCallback):
    """Notes when every central iteration ended."""

    def __init__(self) -> None:
        self.ended = [time.perf_counter()]

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: Any, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """Note the time."""
        self.ended.append(time.perf_counter())
        return False, Metrics()


def main() -> None:
    """Train and print the seconds of every iteration."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(spec["threads"])
    x, y = (np.load(Path(spec["folder"]) / f"{name}.npy") for name in "xy")
    size = spec["shard"]

    def make(user: int) -> Dataset:
        rows = slice(user * size, (user + 1) * size)
        return Dataset(raw_data=(torch.from_numpy(x[rows]), torch.from_numpy(y[rows])))

    users = list(range(spec["clients"]))
    data = FederatedDataset(make, get_user_sampler("random", users))
    network = Network()
    model = PyTorchModel(network, torch.optim.SGD, torch.optim.SGD(network.parameters(), lr=1.0))
    clock = Clock()
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=spec["rounds"],
            evaluation_frequency=10**6,
            train_cohort_size=spec["cohort"],
            val_cohort_size=None,
        ),
        SimulatedBackend(training_data=data, val_data=data),
        model,
        NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=spec["lr"], local_batch_size=spec["batch"]
        ),
        NNEvalHyperParams(local_batch_size=None),
        [clock],
    )
    rounds = [after - before for before, after in zip(clock.ended, clock.ended[1:], strict=False)]
    print(json.dumps({"rounds": rounds}))


if __name__ == "__main__":
    main()
