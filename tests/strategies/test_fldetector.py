from __future__ import annotations

import numpy as np
import pytest
import torch
from references import updates_of

from fedguard.strategies.fldetector import FLDetector, best_split, has_two_groups, hessian_product
from fedguard.strategies.toolkit import sketch


def test_l_bfgs_meets_the_secant_equation_and_an_explicit_update():
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(6, 6))
    hessian = factor @ factor.T + np.eye(6)
    steps = rng.normal(size=(4, 6))
    changes = steps @ hessian
    sigma = changes[-1] @ steps[-1] / (steps[-1] @ steps[-1])
    matrix = sigma * np.eye(6)
    for s, y in zip(steps, changes, strict=True):
        matrix = (
            matrix - np.outer(matrix @ s, matrix @ s) / (s @ matrix @ s) + np.outer(y, y) / (y @ s)
        )
    vector = rng.normal(size=6)
    args = torch.from_numpy(steps), torch.from_numpy(changes)
    found = hessian_product(*args, torch.from_numpy(vector)).numpy()
    np.testing.assert_allclose(found, matrix @ vector, rtol=1e-9)
    newest = hessian_product(*args, torch.from_numpy(steps[-1])).numpy()
    np.testing.assert_allclose(newest, changes[-1], rtol=1e-9)


def test_best_split_minimises_the_sum_of_squares():
    cut, cost = best_split(np.array([0.0, 0.1, 0.2, 5.0, 5.2]))
    assert cut == 3
    assert abs(cost - 0.04) < 1e-12


def test_gap_statistic_tells_one_group_from_two():
    rng = np.random.default_rng(1)
    one = [has_two_groups(rng.normal(1.0, 0.1, 20), rng) for _ in range(20)]
    two = [
        has_two_groups(np.concatenate([rng.normal(1, 0.1, 15), rng.normal(3, 0.1, 5)]), rng)
        for _ in range(20)
    ]
    assert sum(one) <= 4
    assert sum(two) == 20
    assert not has_two_groups(np.ones(8), rng)


@pytest.mark.parametrize(("size", "exact"), [(60, 60), (8000, 1000)])
def test_finds_clients_that_do_not_follow_the_optimisation(monkeypatch, size, exact):
    monkeypatch.setattr(sketch, "EXACT_UP_TO", exact)
    rng = np.random.default_rng(2)
    curvature = np.linspace(0.5, 1.5, size)
    targets = rng.normal(0, 0.05, (12, size))
    model = np.full(size, 2.0)
    rule = FLDetector(window=4)
    rejected = []
    for at in range(1, 9):
        deltas = -0.1 * curvature * (model - targets)
        deltas[:3] = rng.normal(0, 0.2, (3, size))
        start = torch.tensor(model, dtype=torch.float32)
        verdict = rule.decide(updates_of(deltas, global_vector=start, server_round=at))
        model = model + verdict.delta.double().numpy()
        rejected.append(set(verdict.reasons))
    assert rejected[0] == set()
    assert rejected[-1] == {0, 1, 2}
