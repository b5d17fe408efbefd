from __future__ import annotations

import numpy as np
import pytest
import torch
from references import random_rows, updates_of

from fedguard.strategies.foolsgold import FoolsGold, foolsgold_weights
from fedguard.strategies.toolkit import sketch


def foolsgold64(rows) -> np.ndarray:
    """The paper's loops over pairs of clients."""
    count = len(rows)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = (unit @ unit.T).clip(min=0.0) - np.eye(count)
    peak = cosine.max(axis=1)
    for i in range(count):
        for j in range(count):
            if i != j and peak[j] > peak[i]:
                cosine[i, j] *= peak[i] / peak[j]
    rate = np.clip(1 - cosine.max(axis=1), 0, 1)
    rate = np.clip(rate / rate.max(), 1e-6, 1 - 1e-6)
    return np.clip(np.log(rate / (1 - rate)) + 0.5, 0, 1)


def test_equals_the_papers_loops():
    rows = random_rows(8, 40, seed=0).astype(np.float64)
    rows[:3] = 0.5 * rows[:3] + rows[3]
    unit = torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    found = foolsgold_weights(unit @ unit.T)
    np.testing.assert_allclose(found.numpy(), foolsgold64(rows), atol=1e-9)
    assert 0 < foolsgold64(rows).sum() < 8


@pytest.mark.parametrize(("size", "exact"), [(200, 200), (20_000, 2000)])
def test_sybils_lose_their_weight_over_rounds(monkeypatch, size, exact):
    monkeypatch.setattr(sketch, "EXACT_UP_TO", exact)
    rule = FoolsGold()
    aim = np.random.default_rng(9).normal(size=size)
    for at in range(4):
        rows = random_rows(10, size, seed=at, mean=0.0)
        rows[6:] += 0.1 * aim
        verdict = rule.decide(updates_of(rows, server_round=at))
    assert float(verdict.weights[6:].sum()) < 0.05
    assert float(verdict.weights[:6].min()) > 0.1


def test_all_alike_leave_the_model():
    verdict = FoolsGold().decide(updates_of(np.ones((4, 6))))
    assert not verdict.delta.any()
    assert len(verdict.reasons) == 4


def test_a_client_unlike_all_others_keeps_its_full_weight():
    rows = np.array([[1.0, 0.2], [1.0, -0.2], [-1.0, 0.0]])
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    rates = foolsgold_weights(torch.from_numpy(unit @ unit.T)).tolist()
    # cos(1, 2) = 12 / 13; the third has no cosine above 0, so its quotient is 1 before the logit.
    assert rates[2] == 1.0
    rate = 1.0 - 12.0 / 13.0
    wanted = max(np.log(rate / (1.0 - rate)) + 0.5, 0.0)
    np.testing.assert_allclose(rates[:2], wanted, atol=1e-6)


def digits_by_class():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x, y = torch.tensor(x[order] / 16.0, dtype=torch.float32), torch.tensor(y[order])
    shards = [(x[:1200][y[:1200] == k], y[:1200][y[:1200] == k]) for k in range(10)]
    return shards, (x[1200:], y[1200:])


def trained(model: torch.Tensor, x, y) -> torch.Tensor:
    """One client's update: 10 full-batch steps of softmax regression, weights (10, 65)."""
    weights = model.view(10, 65).clone().requires_grad_()
    wide = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    for _ in range(10):
        loss = torch.nn.functional.cross_entropy(wide @ weights.T, y)
        (slope,) = torch.autograd.grad(loss, weights)
        weights = (weights - 0.1 * slope).detach().requires_grad_()
    return (weights.detach() - model.view(10, 65)).flatten()


def test_ten_honest_clients_of_one_class_each_are_no_sybils():
    shards, (x, y) = digits_by_class()
    model, rule, rejected = torch.zeros(650), FoolsGold(), 0
    for at in range(1, 7):
        rows = torch.stack([trained(model, *shard) for shard in shards])
        verdict = rule.decide(updates_of(rows, server_round=at))
        rejected += len(verdict.reasons)
        model = model + verdict.delta
    wide = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    accuracy = float(((wide @ model.view(10, 65).T).argmax(dim=1) == y).double().mean())
    assert rejected == 0
    assert accuracy > 0.7
