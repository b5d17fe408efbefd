"""Verification on the server's examples, as two defences run it: loss, clipping and patches."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from pictures import CLASSES, TARGET, clean_model, pictures, stamped, train, updates_from
from torch import nn
from torch.nn import functional

from fedguard.strategies.base import ServerTools
from fedguard.strategies.geminiguard import GeminiGuard
from fedguard.strategies.sentinel import Sentinel
from fedguard.strategies.toolkit.patch_memory import PatchMemory
from fedguard.strategies.toolkit.trigger_search import PatchEffect
from fedguard.strategies.toolkit.verification import (
    ALONE,
    ENOUGH,
    NONE,
    SPREAD,
    Verification,
    _unusual,
)
from fedguard.updates import ClientUpdates, ParameterLayout

EVERYTHING = list(range(CLASSES))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A model that the patch has reached in earlier rounds."""
    model = clean_model()
    train(model, *stamped(*pictures(400, 0, EVERYTHING)), steps=30)
    return model


@pytest.fixture(scope="module")
def updates(model) -> ClientUpdates:
    """Two of eight clients go on planting it; the third holds much of the target class."""
    shards = [pictures(120, 30 + client, EVERYTHING) for client in range(8)]
    shards[2] = pictures(120, 32, [TARGET, 1])
    shards[:2] = [stamped(*shard) for shard in shards[:2]]
    return updates_from(model, shards, steps=15)


@pytest.fixture(params=["geminiguard", "sentinel"])
def patchwork(request):
    """Either defence, the loss kept out of it."""
    return {"geminiguard": GeminiGuard, "sentinel": partial(Sentinel, margin=0.99)}[request.param]


def verdict_of(make, model: nn.Module, updates: ClientUpdates, trigger_margin: float):
    rule = make(max_norm_ratio=50.0, trigger_budget=0.03, trigger_margin=trigger_margin)
    rule.tools = ServerTools(model, *pictures(200, 5, EVERYTHING), "1", CLASSES)
    verdict = rule.combine(updates)
    updates.layout.load(model, updates.global_vector)
    return verdict


def test_who_plants_a_patch_is_rejected_by_the_search_and_nobody_else(patchwork, model, updates):
    verdict = verdict_of(patchwork, model, updates, 0.1)
    assert verdict.reasons == {
        0: f"teaches a patch that means class {TARGET}",
        1: f"teaches a patch that means class {TARGET}",
    }
    assert verdict.scores["patch"][:2].min() > verdict.scores["patch"][2:].max()


def test_whose_own_model_the_patch_moves_less_than_the_margin_stays(patchwork, model, updates):
    assert set(verdict_of(patchwork, model, updates, 0.8).reasons) == {0, 1}
    assert not verdict_of(patchwork, model, updates, 0.99).reasons


def test_who_explains_nothing_of_the_patch_stays_though_it_moves_its_model(
    patchwork, model, updates, monkeypatch
):
    """The model has the patch already: honest clients' models are moved as well."""
    monkeypatch.setattr("fedguard.strategies.toolkit.verification.PRESENCE", -9.0)
    assert set(verdict_of(patchwork, model, updates, 0.1).reasons) > {0, 1}
    monkeypatch.setattr("fedguard.strategies.toolkit.verification.PRESENCE", 9.0)
    assert not verdict_of(patchwork, model, updates, 0.1).reasons


def test_a_model_that_answers_nan_blinds_no_search(patchwork, model, updates, monkeypatch):
    plain, asked = Verification._effects, []

    def last_client_answers_nan(self, triggers, targets, most=None):
        asked.append(most)
        if len(asked) == 10:  # the average on all rows and on some, then eight clients
            return [PatchEffect(math.nan, math.nan, math.nan) for _ in targets]
        return plain(self, triggers, targets, most)

    monkeypatch.setattr(Verification, "_effects", last_client_answers_nan)
    assert set(verdict_of(patchwork, model, updates, 0.1).reasons) == {0, 1}
    assert asked[:10] == [None, *[100] * 9]


def test_half_of_the_clients_stay_and_those_with_most_evidence_go(
    patchwork, model, updates, monkeypatch
):
    def everybody(self, shares, triggers, targets, unusual):
        return 1.0 + torch.arange(8.0, dtype=torch.float64).expand(len(targets), 8)

    monkeypatch.setattr(
        "fedguard.strategies.toolkit.verification.Verification._evidence", everybody
    )
    assert set(verdict_of(patchwork, model, updates, 0.1).reasons) == {4, 5, 6, 7}


@pytest.fixture
def accused(patchwork, model, updates, monkeypatch):
    """Return what tells whom a round rejects, given evidence by row; a new rule with each call."""
    told = {}

    def evidence(self, shares, triggers, targets, unusual):
        found = torch.full((len(targets), 8), NONE, dtype=torch.float64)
        for row, value in told.items():
            found[0, row] = value
        return found

    where = "fedguard.strategies.toolkit.verification.Verification._evidence"
    monkeypatch.setattr(where, evidence)

    def fresh():
        rule = patchwork(max_norm_ratio=50.0)
        rule.tools = ServerTools(model, *pictures(200, 5, EVERYTHING), "1", CLASSES)

        def rejected(**by_row):
            told.clear()
            told.update({int(name[1:]): value for name, value in by_row.items()})
            return {updates.node_ids.index(node) for node in rule.combine(updates).reasons}

        return rule, rejected

    yield fresh
    updates.layout.load(model, updates.global_vector)


def test_evidence_of_two_rounds_adds_up_also_after_a_restart(accused):
    rule, rejected = accused()
    little = {"r3": 0.8 * ENOUGH, "r5": 0.8 * ENOUGH}
    assert rejected(**little) == set()
    later, rejected_later = accused()
    later.load_state(rule.state())
    assert rejected(**little) == rejected_later(**little) == {3, 5}
    rule.reset()
    assert rejected(**little) == set()


def test_who_teaches_a_patch_alone_goes_on_more_evidence(accused):
    between = (ENOUGH + ALONE) / 2.0
    assert accused()[1](r3=between) == set()
    assert accused()[1](r3=1.01 * ALONE) == {3}
    assert accused()[1](r3=between, r5=0.9 * ENOUGH) == set()
    assert accused()[1](r3=between, r5=1.1 * ENOUGH) == {3, 5}


def test_company_of_the_last_round_counts(accused):
    _, rejected = accused()
    assert rejected(r3=(ENOUGH + ALONE) / 2.0) == set()
    assert rejected(r5=(ENOUGH + ALONE) / 2.0) == {5}


def test_among_two_classes_no_patch_is_searched(accused):
    """None of them is typical: what is unlike it says nothing."""
    rule, rejected = accused()
    assert rejected(r3=5.0 * ALONE) == {3}
    rule.reset()
    rule.tools = replace(rule.tools, y=rule.tools.y % 2, num_classes=2)
    assert rejected(r3=5.0 * ALONE) == set()
    rule.tools = replace(rule.tools, num_classes=3)
    assert rejected(r3=5.0 * ALONE) == {3}


@pytest.mark.parametrize(
    ("shape", "classes", "budget", "told"),
    [
        ((1, 8, 8), 10, 0.02, ": trigger_budget below 0.04"),
        ((41,), 5, 0.02, ": trigger_budget below 0.05"),
        ((100,), 2, 0.02, " among two classes"),
        ((1,), 3, 1.0, ": inputs of one position"),
        ((1, 8, 8), 10, 0.04, ""),
        ((41,), 5, 0.05, ""),
        ((3, 10, 10), 3, 0.02, ""),
    ],
)
def test_why_no_patch_is_searched_is_told_with_what_to_set(shape, classes, budget, told):
    model = torch.nn.Linear(2, classes)
    x, y = torch.zeros(4, *shape), torch.zeros(4, dtype=torch.int64)
    tools = ServerTools(model, x, y, "", classes)
    for rule in (GeminiGuard(trigger_budget=budget), Sentinel(trigger_budget=budget)):
        assert rule.left_out() == []
        rule.tools = tools
        assert rule.left_out() == ([f"no search for backdoor patches{told}"] if told else [])
    for rule in (GeminiGuard(mode="paper"), GeminiGuard(trigger_margin=0.0)):
        rule.tools = tools
        assert rule.left_out() == []  # nobody expects a search there


def test_memory_fades_in_rounds_that_say_nothing_and_waits_for_who_is_away():
    memory, said = PatchMemory(), torch.tensor([[True, True]])
    memory.learn([7, 9], [4], torch.tensor([[1.2, 9.0]], dtype=torch.float64), said)
    assert memory.carried([9, 7, 8], [4, 5]).tolist() == [[0.75, 0.6, 0.0], [0.0, 0.0, 0.0]]
    memory.learn([7], [4], torch.tensor([[NONE]], dtype=torch.float64), torch.tensor([[False]]))
    memory.learn([7], [5], torch.tensor([[-0.3]], dtype=torch.float64), torch.tensor([[True]]))
    assert memory.carried([7, 9], [4, 5]).tolist() == [[0.15, 0.75], [0.0, 0.0]]
    for _ in range(9):
        memory.learn([7, 9], [], torch.zeros(0, 2), torch.zeros(0, 2, dtype=torch.bool))
    assert len(memory.state()["patch_keys"]) == 0


@pytest.mark.parametrize(
    ("most", "told"),
    [
        ([0.2, 0.2, 0.2, 0.2, 0.8], 1.386),  # classes alike: the logarithm itself
        ([0.05, 0.1, 0.2, 0.4, 0.8], 1.386 * SPREAD / (1.4826 * 0.6931)),
    ],
)
def test_a_large_ratio_is_no_news_where_classes_differ(most, told):
    values = torch.tensor(most, dtype=torch.float64)
    assert float(_unusual(values, values.median(), 0.0)[-1]) == pytest.approx(told, abs=1e-3)
    other = torch.full((5,), 0.2, dtype=torch.float64)
    assert float(_unusual(values, other.median(), 0.0, among=other)[-1]) == pytest.approx(
        1.386, abs=1e-3
    )


def test_without_the_search_they_stay(patchwork, model, updates):
    verdict = verdict_of(patchwork, model, updates, 0.0)
    assert not verdict.reasons
    assert "patch" not in verdict.scores


# --- what is clipped ---------------------------------------------------------------------------


@pytest.fixture
def linear() -> tuple[ServerTools, ClientUpdates]:
    """A linear model, five honest clients, and one of them 2.2 times as long as the others."""
    stream = torch.Generator().manual_seed(4)
    x, y = torch.randn(60, 6, generator=stream), torch.arange(60) % 3
    x[torch.arange(60), y] += 2.0
    model = nn.Sequential(nn.Identity(), nn.Linear(6, 3))
    layout = ParameterLayout.from_module(model)
    start = torch.zeros(layout.size)
    deltas = 0.05 * torch.randn(5, layout.size, generator=stream)
    for row in range(5):
        weight = deltas[row, :18].view(3, 6)
        weight[torch.arange(3), torch.arange(3)] += 0.3
    deltas[4] *= 2.2
    tools = ServerTools(model, x, y, "0", 3)
    return tools, ClientUpdates.from_matrix(deltas, None, None, start, layout)


def test_accepted_updates_are_clipped_to_their_median_norm(linear):
    tools, updates = linear
    rule = Sentinel(margin=0.99, trigger_margin=0.0, clip_ratio=1.0)
    rule.tools = tools
    verdict = rule.combine(updates)
    assert not verdict.reasons
    norms = updates.deltas.norm(dim=1)
    clipped = updates.deltas * (norms.median() / norms).clamp(max=1.0)[:, None]
    torch.testing.assert_close(verdict.delta, clipped.mean(dim=0), atol=1e-6, rtol=1e-5)
    assert not torch.allclose(verdict.delta, updates.deltas.mean(dim=0), atol=1e-3)


def test_harm_is_the_first_order_change_of_the_loss_by_a_clipped_update(linear):
    tools, updates = linear
    rule = Sentinel(margin=0.99, trigger_margin=0.0, clip_ratio=1.0)
    rule.tools = tools
    harm = rule.combine(updates).scores["harm"]
    norms = updates.deltas.norm(dim=1)
    clipped = updates.deltas * (norms.median() / norms).clamp(max=1.0)[:, None]
    point = clipped.mean(dim=0).requires_grad_()
    logits = tools.x @ point[:18].view(3, 6).T + point[18:]
    loss = functional.cross_entropy(logits, tools.y)
    (slope,) = torch.autograd.grad(loss, point)
    wanted = clipped @ slope / (5.0 * loss.detach())
    torch.testing.assert_close(harm, wanted.double(), atol=1e-6, rtol=1e-4)
