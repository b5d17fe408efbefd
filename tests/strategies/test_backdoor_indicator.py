from __future__ import annotations

import numpy as np
import pytest
import torch

from fedguard.layout import ParameterLayout
from fedguard.randomness import SERVER, generator
from fedguard.strategies.backdoor_indicator import (
    BackdoorIndicator,
    indicator_rows,
    label_advantage,
)
from fedguard.testing import small_tools
from fedguard.updates import ClientUpdates


def linear_rule(**more) -> tuple[BackdoorIndicator, ParameterLayout]:
    model = torch.nn.Sequential(torch.nn.Linear(6, 3))
    data = torch.randn(12, 6, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 3
    values = {"indicator_rows_count": 10, "indicator_lr": 0.1, **more}
    rule = BackdoorIndicator(model=model, server_data=data, latent_layer="0", **values)
    return rule, ParameterLayout.from_module(model)


def test_rows_are_the_servers_in_another_order_with_labels_of_every_class():
    x = torch.arange(28.0).reshape(4, 7)
    rows, labels = indicator_rows(x, 10, 3, seed=5)
    assert rows.shape == (10, 7)
    np.testing.assert_array_equal(rows.sort(dim=1).values[:4], x)
    assert not torch.equal(rows[4:8], rows[:4])
    assert labels.bincount().tolist() == [4, 3, 3]
    again = indicator_rows(x, 10, 3, seed=5)
    assert torch.equal(again[0], rows)
    assert torch.equal(again[1], labels)


def test_planting_equals_plain_descent_towards_the_task_and_the_old_model():
    rule, layout = linear_rule(indicator_steps=1, proximity=0.5)
    start = torch.linspace(-1.0, 1.0, layout.size)
    x, y = rule._task()
    planted = rule.plant(start, layout, server_round=3)
    # The first step's pull is zero: one step of softmax regression on the rows that were drawn.
    stream = generator(rule.seed, 3, SERVER, "indicator batches")
    drawn = torch.randint(10, (10,), generator=stream)
    wide = start.double().numpy()
    weight, bias = wide[:18].reshape(3, 6), wide[18:]
    rows = x[drawn].double().numpy()
    logits = rows @ weight.T + bias
    share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    share[np.arange(10), y[drawn].numpy()] -= 1.0
    wanted = np.concatenate([(share.T @ rows / 10).ravel(), share.mean(axis=0)])
    np.testing.assert_allclose((start - planted).double().numpy() / 0.1, wanted, atol=1e-6)


def test_a_stronger_pull_stays_nearer():
    start = torch.zeros(21)
    near, layout = linear_rule(proximity=5.0)
    far, _ = linear_rule(proximity=0.0)
    assert float(near.plant(start, layout, 1).norm()) < 0.7 * float(
        far.plant(start, layout, 1).norm()
    )


def test_knowing_the_task_is_told_from_calling_everything_one_class():
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    assert label_advantage(labels, labels, 3) == 1.0
    assert label_advantage(torch.zeros(6, dtype=torch.int64), labels, 3) == 0.0
    assert label_advantage(torch.tensor([0, 1, 1, 1, 0, 2]), labels, 3) == pytest.approx(0.75)


def test_a_client_that_keeps_the_indicator_is_rejected_and_one_that_forgot_is_not():
    rule, layout = linear_rule(indicator_steps=3000, proximity=0.0, threshold=0.5)
    planted = rule.plant(torch.zeros(layout.size), layout, 1)
    deltas = torch.stack([torch.zeros(layout.size), -planted, -2.0 * planted])
    updates = ClientUpdates.from_matrix(deltas, layout=layout, global_vector=planted)
    verdict = rule.decide(updates)
    assert sorted(verdict.reasons) == [0]
    assert "indicator still known" in verdict.reasons[0]
    torch.testing.assert_close(verdict.delta, -1.5 * planted)


def test_the_statistics_of_the_planting_are_kept_from_clients_and_used_to_judge():
    tools = small_tools()
    rule = BackdoorIndicator(indicator_rows_count=60)
    rule.tools = tools
    layout = ParameterLayout.from_module(tools.model)
    start = layout.flatten(tools.model.state_dict())
    planted = rule.plant(start, layout, 1)
    first = layout.num_trainable
    assert torch.equal(planted[first:], start[first:])
    assert rule._statistics is not None
    assert not torch.equal(rule._statistics, start[first:])


def test_planting_pulls_towards_the_model_as_it_was_at_every_step():
    rule, layout = linear_rule(indicator_steps=4, proximity=2.0)
    start = torch.linspace(-1.0, 1.0, layout.size)
    planted = rule.plant(start, layout, server_round=2)
    x, y = rule._task()
    stream = generator(rule.seed, 2, SERVER, "indicator batches")
    origin = start.double().numpy()
    now = origin.copy()
    for _ in range(4):
        drawn = torch.randint(10, (10,), generator=stream)
        rows, labels = x[drawn].double().numpy(), y[drawn].numpy()
        share = np.exp(rows @ now[:18].reshape(3, 6).T + now[18:])
        share /= share.sum(axis=1, keepdims=True)
        share[np.arange(10), labels] -= 1.0
        slope = np.concatenate([(share.T @ rows / 10).ravel(), share.mean(axis=0)])
        now = now - 0.1 * (slope + 2.0 * (now - origin))
    np.testing.assert_allclose(planted.double().numpy(), now, atol=1e-6)


def test_a_planting_that_runs_away_is_not_sent():
    rule, layout = linear_rule(indicator_steps=60, indicator_lr=1e3, proximity=1e3)
    start = torch.linspace(-1.0, 1.0, layout.size)
    assert torch.equal(rule.plant(start, layout, 1), start)


def test_labels_that_nobody_has_or_everybody_has_need_no_other_rows():
    ones = torch.ones(4, dtype=torch.int64)
    assert label_advantage(ones, ones, 3) == 1.0
    assert label_advantage(0 * ones, ones, 3) == 0.0
    # Recall 1/2 at no false alarm beats recall 1 at two of three.
    predicted, labels = torch.tensor([0, 1, 1, 1, 2]), torch.tensor([0, 0, 1, 2, 2])
    assert label_advantage(predicted, labels, 3) == pytest.approx(0.5)


def test_the_score_is_the_advantage_of_each_clients_own_model():
    rule, layout = linear_rule(threshold=0.5, indicator_rows_count=30)
    stream = torch.Generator().manual_seed(4)
    deltas = torch.randn(8, layout.size, generator=stream)
    start = torch.randn(layout.size, generator=stream)
    updates = ClientUpdates.from_matrix(deltas, layout=layout, global_vector=start)
    x, y = (part.numpy() for part in rule._task())
    wanted = []
    for row in (deltas + start).double().numpy():
        said = (x @ row[:18].reshape(3, 6).T + row[18:]).argmax(axis=1)
        wanted.append(
            max(np.mean(said[y == k] == k) - np.mean(said[y != k] == k) for k in range(3))
        )
    verdict = rule.decide(updates)
    np.testing.assert_allclose(verdict.scores["indicator"].numpy(), wanted, atol=1e-12)
    rule.threshold = max(wanted)
    assert sorted(rule.decide(updates).reasons) == np.flatnonzero(wanted == max(wanted)).tolist()
