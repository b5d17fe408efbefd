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
    cosine = unit @ unit.T - 2 * np.eye(count)
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
