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
