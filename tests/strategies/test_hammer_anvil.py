from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from references import relative_error

from fedguard.errors import ConfigurationError
from fedguard.layout import ParameterLayout
from fedguard.randomness import SERVER, generator
from fedguard.strategies.hammer_anvil import RULES, HammerAnvil, cyclic_rate
from fedguard.strategies.krum import MultiKrum
from fedguard.testing import honest_updates, small_tools, with_deltas
from fedguard.updates import ClientUpdates


def linear_world():
    """Softmax regression on 24 rows of 5 features, and a round of 6 clients."""
    stream = torch.Generator().manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(5, 3))
    x = torch.randn(24, 5, generator=stream)
    y = torch.arange(24) % 3
    layout = ParameterLayout.from_module(model)
    rows = 0.1 + 0.05 * torch.randn(6, layout.size, generator=stream)
    start = 0.3 * torch.randn(layout.size, generator=stream)
    updates = ClientUpdates.from_matrix(rows, layout=layout, global_vector=start)
    return model, (x, y), updates


def repaired64(start, x, y, epochs, low, high):
    """Full-batch descent of softmax regression with the two-cycle rate, in float64."""
    names = {"weight": start[:15].reshape(3, 5).copy(), "bias": start[15:].copy()}
    for step in range(epochs):
        logits = x @ names["weight"].T + names["bias"]
        share = np.exp(logits - logits.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        share[np.arange(len(y)), y] -= 1.0
        rate = low + (high - low) * (1 - math.cos(4 * math.pi * (step + 0.5) / epochs)) / 2
        names["weight"] -= rate * share.T @ x / len(y)
        names["bias"] -= rate * share.mean(axis=0)
    return np.concatenate([names["weight"].ravel(), names["bias"]])


@pytest.mark.parametrize("radius", [0.02, 100.0])
def test_equals_the_rule_and_a_clipped_descent(radius):
    model, data, updates = linear_world()
    rule = HammerAnvil(
        model=model,
        server_data=data,
        latent_layer="0",
        server_batch_size=24,
        repair_radius=radius,
        server_epochs=9,
    )
    first = MultiKrum().decide(updates).delta.numpy().astype(np.float64)
    start = updates.global_vector.numpy().astype(np.float64) + first
    x, y = data[0].numpy().astype(np.float64), data[1].numpy()
    change = repaired64(start, x, y, 9, 0.001, 0.1) - start
    limit = radius * np.median(np.linalg.norm(updates.deltas.numpy().astype(np.float64), axis=1))
    change *= min(1.0, limit / np.linalg.norm(change))
    assert relative_error(rule.decide(updates).delta.numpy(), first + change) < 1e-6


def test_the_rate_climbs_and_falls_twice():
    rates = [cyclic_rate(step, 400, 0.001, 0.1, cycles=2) for step in range(400)]
    tops = [at for at in range(1, 399) if rates[at - 1] <= rates[at] > rates[at + 1]]
    assert [round(at, -1) for at in tops] == [100, 300]
    assert max(rates) == pytest.approx(0.1, rel=1e-4)
    assert rates[199] == pytest.approx(0.001, abs=1e-5)


@pytest.mark.parametrize("name", RULES)
def test_rejects_whom_the_outlier_rule_rejects_and_moves_no_further_than_its_radius(name):
    updates = honest_updates(12, seed=3)
    deltas = updates.deltas.clone()
    deltas[:2] -= 4.0
    seen = with_deltas(updates, deltas)
    rule = HammerAnvil(outlier_rule=name, repair_radius=0.25)
    rule.tools = small_tools()
    verdict = rule.decide(seen)
    alone = rule.rule.decide(seen)
    assert verdict.reasons == alone.reasons
    assert set(seen.node_ids[:2]) <= set(verdict.reasons)
    moved = float((verdict.delta - alone.delta).norm())
    assert 0.0 < moved <= 0.25 * float(seen.trainable.norm(dim=1).median()) * 1.01


def test_a_model_that_cannot_be_repaired_is_left_as_the_rule_has_it():
    updates = honest_updates(6, seed=4)
    deltas = updates.deltas.clone()
    deltas[:, : updates.layout.num_trainable] = 1e10
    rule = HammerAnvil()
    rule.tools = small_tools()
    seen = with_deltas(updates, deltas)
    verdict = rule.decide(seen)
    assert bool(torch.isfinite(verdict.delta).all())


def test_the_rates_are_checked_together():
    with pytest.raises(ConfigurationError, match="high_lr"):
        HammerAnvil(low_lr=0.2, high_lr=0.1)


def test_the_rate_at_steps_that_one_can_work_out_by_hand():
    eight = [cyclic_rate(step, 8, 1.0, 3.0, cycles=2) for step in range(8)]
    low, high = 2.0 - math.sqrt(0.5), 2.0 + math.sqrt(0.5)
    assert eight == pytest.approx([low, high, high, low] * 2)
    assert [cyclic_rate(step, 2, 1.0, 3.0, cycles=1) for step in (0, 1)] == pytest.approx([2.0] * 2)
    assert cyclic_rate(0, 1, 1.0, 3.0, cycles=1) == pytest.approx(3.0)
    assert cyclic_rate(0, 1, 1.0, 3.0, cycles=2) == pytest.approx(1.0)
    assert cyclic_rate(5, 9, 0.2, 0.2, cycles=2) == 0.2


def test_a_last_row_on_its_own_is_passed_over_and_still_takes_its_turn_of_the_rate():
    model, data, updates = linear_world()
    values = {"server_batch_size": 23, "server_epochs": 2, "repair_radius": 100.0}
    rule = HammerAnvil(model=model, server_data=data, latent_layer="0", **values)
    first = MultiKrum().decide(updates).delta.numpy().astype(np.float64)
    now = updates.global_vector.numpy().astype(np.float64) + first
    order = generator(rule.seed, updates.server_round, SERVER, "repair batches")
    for step in (0, 2):  # steps 1 and 3 hold one row each
        rows = torch.randperm(24, generator=order)[:23]
        x, y = data[0][rows].numpy().astype(np.float64), data[1][rows].numpy()
        rate = 0.001 + 0.099 * (1.0 - math.cos(4.0 * math.pi * (step + 0.5) / 4)) / 2.0
        now = repaired64(now, x, y, 1, rate, rate)
    wanted = now - updates.global_vector.numpy()
    assert relative_error(rule.decide(updates).delta.numpy(), wanted) < 1e-6


def test_the_clip_is_the_mean_of_the_two_middle_norms_where_clients_are_even():
    model, data, updates = linear_world()
    lengths = torch.tensor([2.0, 2.0, 3.0, 5.0, 6.0, 9.0])
    unit = torch.nn.functional.normalize(updates.deltas, dim=1)
    seen = with_deltas(updates, unit * lengths[:, None])
    values = {"repair_radius": 0.01, "server_epochs": 20, "high_lr": 0.5}
    rule = HammerAnvil(model=model, server_data=data, latent_layer="0", **values)
    moved = (rule.decide(seen).delta - rule.rule.decide(seen).delta).double().norm()
    assert float(moved) == pytest.approx(0.01 * 4.0, rel=1e-4)


def test_where_nobody_moves_the_repair_may_not_either():
    model, data, updates = linear_world()
    rule = HammerAnvil(model=model, server_data=data, latent_layer="0")
    still = with_deltas(updates, torch.zeros_like(updates.deltas))
    assert rule.decide(still).delta.count_nonzero() == 0


def test_the_repair_leaves_the_statistics_as_the_outlier_rule_has_them():
    updates = honest_updates(8, seed=5)
    rule = HammerAnvil()
    rule.tools = small_tools()
    first = updates.layout.num_trainable
    found, alone = rule.decide(updates).delta, rule.rule.decide(updates).delta
    assert torch.equal(found[first:], alone[first:])
    assert not torch.equal(found[:first], alone[:first])
