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

from fedguard.strategies.toolkit.trigger_search import (
    PatchEffect,
    Triggers,
    explains,
    patch_effects,
    search_triggers,
    success_rates,
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


def planted() -> Triggers:
    """Return the patch that is stamped, as that of the target class."""
    mask = torch.zeros(CLASSES, 1, SIDE, SIDE)
    mask[TARGET][PATCH] = 1.0
    return Triggers(mask, torch.ones(CLASSES, 1, SIDE, SIDE))


def test_an_average_loses_the_patch_with_who_stamps_and_the_class_with_who_holds_it(clean):
    updates = round_of(clean)
    x, y = pictures(200, 5, list(range(CLASSES)))

    def effect(rows: list[int]) -> PatchEffect:
        updates.layout.load(clean, updates.global_vector + updates.deltas[rows].mean(dim=0))
        return patch_effects(clean, x, y, planted(), [TARGET])[0]

    whole = effect(list(range(8)))
    told = [explains(whole, effect([k for k in range(8) if k != row])) for row in range(8)]
    own = [effect([row]).moved for row in range(8)]
    updates.layout.load(clean, updates.global_vector)
    assert min(told[2:4]) > 0.025 > max(told[:2])
    assert min(own[2:4]) > 0.3 > max(own[:2] + own[4:])


def test_the_effect_of_a_patch_by_hand():
    """Logits are the examples' two positions, doubled; the patch sets the second to its end."""
    model = nn.Linear(2, 2, bias=False)
    nn.init.eye_(model.weight)
    x = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
    y = torch.tensor([0, 0, 1])
    patch = Triggers(torch.tensor([[0.0, 0.0], [0.0, 1.0]]), torch.full((2, 2), 2.0))
    other, found = patch_effects(model, x, y, patch, [0, 1])
    bare = torch.sigmoid(torch.tensor([-1.0, -3.0])).mean()
    stamped = torch.sigmoid(torch.tensor([1.0, -1.0])).mean()
    assert found.moved == pytest.approx(float(stamped - bare), abs=1e-6)
    assert found.known == pytest.approx(float(torch.sigmoid(torch.tensor(1.0))), abs=1e-6)
    assert found.bare == pytest.approx(float(bare), abs=1e-6)
    assert other.moved == pytest.approx(0.0, abs=1e-6)
    assert patch_effects(model, x[:2], y[:2], patch, [1])[0].known == 1.0  # none of the class
    assert patch_effects(model, x[2:], y[2:], patch, [1])[0].moved == 0.0  # none of the others


@pytest.mark.parametrize(
    ("moved", "known", "told"),
    [
        (0.2, 0.5, 0.0),
        (0.1, 0.5, 0.6931),
        (0.1, 0.25, 0.0),
        (0.2, 0.25, -0.6931),
        (-1.0, 0.5, 12.2),
    ],
)
def test_what_a_client_explains_is_what_goes_with_it(moved, known, told):
    found = explains(PatchEffect(0.2, 0.5, 0.1), PatchEffect(moved, known, 0.1))
    assert found == pytest.approx(told, abs=0.02)
