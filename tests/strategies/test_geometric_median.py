from __future__ import annotations

import byzfl
import numpy as np
import pytest
import torch
from references import aggregate, random_rows, relative_error
from scipy.optimize import minimize

from fedguard.strategies.geometric_median import GeometricMedian, weiszfeld
from fedguard.strategies.toolkit.distances import gram_matrix


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_steps_equal_byzfls(iterations):
    rows = random_rows(12, 200, seed=iterations)
    weights, _ = weiszfeld(gram_matrix(torch.from_numpy(rows)), 0.1, iterations)
    wanted = byzfl.GeometricMedian(nu=0.1, T=iterations)(rows.astype(np.float64))
    assert relative_error(weights.numpy() @ rows.astype(np.float64), wanted) < 1e-5


@pytest.mark.parametrize("seed", range(3))
def test_minimises_the_sum_of_distances(seed):
    rows = random_rows(7, 5, seed).astype(np.float64)

    def cost(point):
        return np.linalg.norm(rows - point, axis=1).sum()

    best = minimize(cost, rows.mean(axis=0), tol=1e-12)
    found = aggregate(GeometricMedian(), rows)
    assert cost(found) <= best.fun * (1 + 1e-6)
    assert relative_error(found, best.x) < 1e-3


def test_equals_byzfl_run_to_its_end():
    rows = random_rows(20, 500, seed=9)
    wanted = byzfl.GeometricMedian(nu=1e-6, T=300)(rows.astype(np.float64))
    assert relative_error(aggregate(GeometricMedian(), rows), wanted) < 1e-5


def test_on_a_line_it_is_the_median():
    rows = np.array([[0.0], [1.0], [2.0], [3.0], [1e6]])
    assert abs(aggregate(GeometricMedian(), rows)[0] - 2.0) < 1e-2


@pytest.mark.parametrize("scale", [1e-9, 1e-6, 1e-3, 1e3, 1e6])
def test_is_as_right_for_tiny_and_huge_updates(scale):
    rows = random_rows(11, 60, seed=2)
    rows[:3] += 0.7
    wanted = aggregate(GeometricMedian(), rows)
    found = aggregate(GeometricMedian(), rows * np.float32(scale)) / np.float64(np.float32(scale))
    assert relative_error(found, wanted) < 1e-6


def test_most_clients_at_one_point_are_the_median_at_any_scale():
    rows = np.zeros((7, 4))
    rows[:3] = 5e-9
    assert np.abs(aggregate(GeometricMedian(), rows)).max() < 1e-15
    assert relative_error(aggregate(GeometricMedian(), rows + 3.0), np.full(4, 3.0)) < 1e-6
