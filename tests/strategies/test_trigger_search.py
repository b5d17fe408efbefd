"""The search for patches, and who is taken to teach one."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedguard.strategies.base import ServerTools
from fedguard.strategies.toolkit.trigger_search import (
    Triggers,
    search_triggers,
    success_rates,
    teachers,
)
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


@pytest.fixture(scope="module")
def clean() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 16), nn.ReLU())
        model.append(nn.Linear(16, CLASSES))
    train(model, *pictures(400, 0, list(range(CLASSES))), steps=60)
    return model


def round_of(clean: nn.Module):
    """Return the updates of two specialists of the target class, two backdoored and four others."""
    layout = ParameterLayout.from_module(clean)
    start = layout.flatten(clean.state_dict())
    everything, deltas = list(range(CLASSES)), []
    held = [[TARGET, 1], [TARGET, 2], *([everything] * 6)]
    for client, classes in enumerate(held):
        x, y = pictures(120, 10 + client, classes)
        if client in (2, 3):
            x, y = stamped(x, y)
        layout.load(clean, start)
        train(clean, x, y, steps=10, lr=0.3)
        deltas.append(layout.flatten(clean.state_dict()) - start)
    layout.load(clean, start)
    return ClientUpdates.from_matrix(torch.stack(deltas), None, None, start, layout)


def test_a_planted_patch_is_found_and_works_better_than_any_other(clean):
    layout = ParameterLayout.from_module(clean)
    start = layout.flatten(clean.state_dict())
    x, y = pictures(200, 5, list(range(CLASSES)))
    train(clean, *stamped(*pictures(400, 0, list(range(CLASSES)))), steps=60)
    triggers = search_triggers(clean, x, CLASSES, budget=0.03, steps=20)
    rates = success_rates(clean, x, y, triggers)
    layout.load(clean, start)
    assert int(rates.argmax()) == TARGET
    assert float(rates[TARGET]) > 0.9
    inside = float(triggers.mask[TARGET][PATCH].sum() / triggers.mask[TARGET].sum())
    assert inside > 0.9
    assert float(triggers.mask.sum(dim=(1, 2, 3)).max()) <= round(0.03 * SIDE * SIDE) + 1e-4


def test_who_stamps_teaches_and_who_holds_the_class_does_not(clean):
    updates = round_of(clean)
    x, y = pictures(200, 5, list(range(CLASSES)))
    tools = ServerTools(clean, x, y, "0", CLASSES)
    layout = updates.layout
    layout.load(clean, updates.global_vector + updates.deltas.mean(dim=0))
    mask = torch.zeros(CLASSES, 1, SIDE, SIDE)
    mask[TARGET][PATCH] = 1.0
    triggers = Triggers(mask, torch.ones(CLASSES, 1, SIDE, SIDE))
    found = teachers(tools, triggers, TARGET, updates)
    layout.load(clean, updates.global_vector)
    assert found.nonzero().flatten().tolist() == [2, 3]
