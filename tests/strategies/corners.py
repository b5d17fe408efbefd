"""A separable task, a small network, and what honest and lying clients send on it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from fedguard.strategies.base import ServerTools
from fedguard.updates import ClientUpdates, ParameterLayout

FEATURES, HIDDEN, CLASSES = 12, 16, 5


class Net(nn.Module):
    latent_layer = "hidden"

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU())
        self.output = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.hidden(x))


def examples(count: int, seed: int, classes: list[int] | None = None):
    """A separable task: each class around its own corner."""
    stream = torch.Generator().manual_seed(seed)
    allowed = torch.tensor(classes or list(range(CLASSES)))
    y = allowed[torch.randint(0, len(allowed), (count,), generator=stream)]
    centres = 1.5 * torch.eye(FEATURES)[:CLASSES]
    return centres[y] + 0.5 * torch.randn(count, FEATURES, generator=stream), y


def make_tools() -> ServerTools:
    """A fresh network and a hundred examples of the server's."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Net()
    x, y = examples(100, seed=99)
    return ServerTools(model, x, y, "hidden", CLASSES)


def trained(tools: ServerTools, clients: int, *, labels_per_client: int = CLASSES):
    """Honest updates: a few SGD steps of each client on its own labels."""
    layout = ParameterLayout.from_module(tools.model)
    state = {name: value.clone() for name, value in tools.model.state_dict().items()}
    start = layout.flatten(state)
    deltas = []
    for client in range(clients):
        classes = [(client + step) % CLASSES for step in range(labels_per_client)]
        x, y = examples(60, seed=client, classes=classes)
        layout.load(tools.model, start)
        optimiser = torch.optim.SGD(tools.model.parameters(), lr=0.1)
        for _ in range(10):
            optimiser.zero_grad()
            functional.cross_entropy(tools.model(x), y).backward()
            optimiser.step()
        deltas.append(layout.flatten(tools.model.state_dict()) - start)
    layout.load(tools.model, start)
    return torch.stack(deltas), start, layout


def updates_of(deltas, start, layout) -> ClientUpdates:
    return ClientUpdates.from_matrix(deltas, None, None, start, layout)


def rates(verdict, liars: int) -> tuple[float, float]:
    rejected = verdict.weights == 0
    honest = rejected[liars:]
    return float(rejected[:liars].double().mean()), float(honest.double().mean())


def attacked(deltas: torch.Tensor, kind: str, liars: int) -> torch.Tensor:
    deltas = deltas.clone()
    honest = deltas[liars:]
    stream = torch.Generator().manual_seed(5)
    if kind == "sign":
        deltas[:liars] *= -4.0
    elif kind == "gaussian":
        scale = 3.0 * float(honest.std())
        deltas[:liars] = scale * torch.randn(deltas[:liars].shape, generator=stream)
    elif kind == "scale":
        deltas[:liars] *= 8.0
    elif kind == "lie":
        deltas[:liars] = honest.mean(dim=0) - 1.5 * honest.std(dim=0)
    return deltas
