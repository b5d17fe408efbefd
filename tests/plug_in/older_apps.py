"""Apps and strategies of Flower's older API, as people wrote them before 1.20."""

from __future__ import annotations

import numpy as np
import torch
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.common import Context
from flwr.server.strategy import FedAdam, FedAvg
from flwr.serverapp.strategy import FedAvg as TodaysFedAvg
from sklearn.datasets import load_digits
from torch import nn


def logistic():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


class FlowerClient(NumPyClient):
    """Softmax regression on every sixth digit."""

    def __init__(self, part: int, parts: int) -> None:
        x, y = load_digits(return_X_y=True)
        self.x = torch.tensor(x[part::parts] / 16.0, dtype=torch.float32).reshape(-1, 1, 8, 8)
        self.y = torch.tensor(y[part::parts])
        self.model = logistic()

    def set_parameters(self, parameters):
        state = zip(self.model.state_dict().keys(), parameters, strict=True)
        self.model.load_state_dict({name: torch.tensor(value) for name, value in state})

    def fit(self, parameters, config):
        self.set_parameters(parameters)
        lr = float(config["lr"])
        for _ in range(int(config["local_epochs"])):
            loss = nn.functional.cross_entropy(self.model(self.x), self.y)
            gradients = torch.autograd.grad(loss, list(self.model.parameters()))
            with torch.no_grad():
                for value, gradient in zip(self.model.parameters(), gradients, strict=True):
                    value -= lr * gradient
        arrays = [value.numpy() for value in self.model.state_dict().values()]
        return arrays, len(self.y), {"train_loss": float(loss.detach()), "note": "text"}

    def evaluate(self, parameters, config):
        self.set_parameters(parameters)
        with torch.no_grad():
            z = self.model(self.x)
        loss = float(nn.functional.cross_entropy(z, self.y))
        return loss, len(self.y), {"accuracy": float((z.argmax(1) == self.y).float().mean())}


def client_fn(context: Context):
    part = int(context.node_config["partition-id"])
    return FlowerClient(part, int(context.node_config["num-partitions"])).to_client()


def by_cid(cid: str):
    return FlowerClient(int(cid), 6)


class ByItself(FlowerClient):
    """A class that makes itself."""

    def __init__(self) -> None:
        super().__init__(0, 6)


app = ClientApp(client_fn=client_fn)


class MomentumAvg(FedAvg):
    """A strategy of one's own, with state of several kinds."""

    def __init__(self, *, momentum: float = 0.5, **fedavg) -> None:
        super().__init__(**fedavg)
        self.momentum = momentum
        self.velocity: list[np.ndarray] | None = None
        self.rounds_seen: list[int] = []
        self.before: list[np.ndarray] | None = None

    def configure_fit(self, server_round, parameters, client_manager):
        from flwr.common import parameters_to_ndarrays

        self.before = parameters_to_ndarrays(parameters)
        return super().configure_fit(server_round, parameters, client_manager)

    def aggregate_fit(self, server_round, results, failures):
        from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays

        parameters, metrics = super().aggregate_fit(server_round, results, failures)
        if parameters is None:
            return None, metrics
        step = [a - b for a, b in zip(parameters_to_ndarrays(parameters), self.before, strict=True)]
        if self.velocity is None:
            self.velocity = [np.zeros_like(one) for one in step]
        self.velocity = [
            self.momentum * v + one for v, one in zip(self.velocity, step, strict=True)
        ]
        self.rounds_seen.append(server_round)
        new = [a + v for a, v in zip(self.before, self.velocity, strict=True)]
        return ndarrays_to_parameters(new), metrics


class Forgetful(FedAdam):
    """Keeps something that no checkpoint can hold."""

    def __init__(self, **rest) -> None:
        super().__init__(**rest)
        self.journal = open("/dev/null")  # noqa: SIM115


class Tired(FedAvg):
    """Raises in the second round."""

    def configure_fit(self, server_round, parameters, client_manager):
        if server_round == 2:
            raise ZeroDivisionError("two\nlines")
        return super().configure_fit(server_round, parameters, client_manager)


class OwnLoop(TodaysFedAvg):
    """Has a training loop of its own."""

    def start(self, *rest, **more):
        raise NotImplementedError
