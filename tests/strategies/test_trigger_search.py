"""The search for patches, and who is taken to teach one."""

from __future__ import annotations

import pytest
import torch
from pictures import (
    CLASSES,
    PATCH,
    SIDE,
    TARGET,
    clean_model,
    pictures,
    stamped,
    train,
    updates_from,
)
from torch import nn

from fedguard.strategies.base import ServerTools
from fedguard.strategies.toolkit.trigger_search import (
    Triggers,
    search_triggers,
    success_rates,
    teachers,
)
from fedguard.updates import ParameterLayout


@pytest.fixture(scope="module")
def clean() -> nn.Module:
    return clean_model()


def round_of(clean: nn.Module):
    """Return the updates of two specialists of the target class, two backdoored and four others."""
    held = [[TARGET, 1], [TARGET, 2], *([list(range(CLASSES))] * 6)]
    shards = [pictures(120, 10 + client, classes) for client, classes in enumerate(held)]
    shards[2:4] = [stamped(*shard) for shard in shards[2:4]]
    return updates_from(clean, shards)


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
