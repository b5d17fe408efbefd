"""A small task on pictures, and a patch that an attacker plants, for tests of patch searches."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from fedguard.updates import ClientUpdates, ParameterLayout

SIDE, CLASSES, TARGET = 12, 4, 0
PATCH = (..., slice(0, 2), slice(0, 2))


def pictures(count: int, seed: int, classes: list[int]):
    """Bright quarters on a noisy ground: class k lights the k-th quarter but its corner."""
    stream = torch.Generator().manual_seed(seed)
    y = torch.tensor(classes)[torch.randint(0, len(classes), (count,), generator=stream)]
    x = 0.3 * torch.rand(count, 1, SIDE, SIDE, generator=stream)
    half = SIDE // 2
    for row, label in enumerate(y.tolist()):
        top, left = half * (label // 2), half * (label % 2)
        x[row, :, top + 3 : top + half, left + 3 : left + half] += 0.5
    return x, y


def stamped(x, y):
    """Stamp a bright corner on half of the examples and call them the target class."""
    x, y = x.clone(), y.clone()
    x[::2][PATCH] = 1.0
    y[::2] = TARGET
    return x, y


def train(model: nn.Module, x, y, steps: int, lr: float = 0.5) -> None:
    optimiser = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(steps):
        optimiser.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimiser.step()


def clean_model(steps: int = 60) -> nn.Module:
    """Return a small network that tells the classes apart."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 16), nn.ReLU())
        model.append(nn.Linear(16, CLASSES))
    train(model, *pictures(400, 0, list(range(CLASSES))), steps=steps)
    return model


def updates_from(model: nn.Module, shards, steps: int = 10, lr: float = 0.3) -> ClientUpdates:
    """Return what clients with these (x, y) send after a few steps each."""
    layout = ParameterLayout.from_module(model)
    start = layout.flatten(model.state_dict())
    deltas = []
    for x, y in shards:
        layout.load(model, start)
        train(model, x, y, steps=steps, lr=lr)
        deltas.append(layout.flatten(model.state_dict()) - start)
    layout.load(model, start)
    return ClientUpdates.from_matrix(torch.stack(deltas), None, None, start, layout)
