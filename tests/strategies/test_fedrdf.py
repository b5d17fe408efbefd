from __future__ import annotations

import numpy as np
import pytest
from references import aggregate, random_rows

from fedguard.strategies import fedrdf
from fedguard.strategies.fedrdf import FedRDF


def densest64(values, harmonics):
    """The series written out with complex coefficients, one coordinate."""
    wide = values.astype(np.float64)
    centre = np.median(wide)
    reach = 3.0 * 1.4826 * np.median(np.abs(wide - centre))
    inside = np.abs(wide - centre) <= reach
    u = np.pi * (wide - centre) / (2.0 * reach)
    density = np.zeros(len(wide))
    for m in range(1, harmonics + 1):
        coefficient = np.mean(np.exp(-1j * m * u) * inside)
        density += (1 - m / (harmonics + 1)) * np.real(coefficient * np.exp(1j * m * u))
    density[~inside] = -np.inf
    return wide[np.argmax(density)]


@pytest.mark.parametrize(("count", "harmonics", "seed"), [(7, 12, 0), (20, 12, 1), (31, 5, 2)])
def test_equals_the_series(count, harmonics, seed):
    rows = random_rows(count, 120, seed)
    rows[:2] += 3.0
    found = aggregate(FedRDF(harmonics=harmonics), rows)
    wanted = [densest64(column, harmonics) for column in rows.T]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_blocks_change_nothing(monkeypatch):
    rows = random_rows(10, 300, seed=3)
    whole = aggregate(FedRDF(), rows)
    monkeypatch.setattr(fedrdf, "_ENTRIES_PER_BLOCK", 70)
    np.testing.assert_array_equal(aggregate(FedRDF(), rows), whole)


def test_takes_the_denser_group_and_not_the_middle():
    values = np.array([0.0, 0.01, 0.02, 0.03, 0.04, 1.0, 1.6, 2.2, 2.8])
    found = aggregate(FedRDF(), values[:, None])[0]
    assert 0.0 < found < 0.04
    assert np.median(values) == 0.04


def test_a_majority_of_equal_values_and_two_clients_have_an_answer():
    assert aggregate(FedRDF(), np.array([[2.0], [2.0], [2.0], [9.0], [-9.0]]))[0] == 2.0
    np.testing.assert_allclose(aggregate(FedRDF(), np.array([[1.0], [3.0]])), [2.0])


def test_one_harmonic_takes_the_value_nearest_to_the_mean_direction():
    rows = random_rows(15, 60, seed=4).astype(np.float64)
    wanted = []
    for column in rows.astype(np.float32).astype(np.float64).T:
        centre = np.median(column)
        reach = 3.0 * 1.4826 * np.median(np.abs(column - centre))
        counted = column[np.abs(column - centre) <= reach]
        angles = np.pi * (counted - centre) / (2.0 * reach)
        direction = np.arctan2(np.sin(angles).sum(), np.cos(angles).sum())
        wanted.append(counted[np.argmin(np.abs(angles - direction))])
    np.testing.assert_allclose(aggregate(FedRDF(harmonics=1), rows), wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([0.0, 1.0, 2.0], 1.0),
        ([0.0, 1.0, 2.0, 3.0], 1.5),  # 1 and 2 tie
        ([0.0, 0.0, 4.0, 4.0], 2.0),  # two groups tie
        ([0.0, 0.0, 4.0, 4.0, 4.0], 4.0),
        ([-7.0], -7.0),
        ([3.0, 3.0, 3.0], 3.0),
        ([2.0, 2.0, 2.0, 1e10, -9.0], 2.0),  # no angle is so large
        ([0.0, float("nan"), 1.0, 2.0], 1.0),
    ],
)
def test_densities_that_one_can_see(values, wanted):
    np.testing.assert_allclose(aggregate(FedRDF(), np.array(values)[:, None]), [wanted])


def test_beyond_its_reach_a_value_counts_not_however_far_it_is():
    inner = [0.0, 1.0, 1.4, 2.0, 3.0]  # median 1.7 with another above, MAD 1
    near, far = (aggregate(FedRDF(), np.array([*inner, last])[:, None]) for last in (9.0, 5e6))
    np.testing.assert_array_equal(near, far)
    assert near[0] in np.float32(inner)
