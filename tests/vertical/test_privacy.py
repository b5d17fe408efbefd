from __future__ import annotations

import math

import pytest
import torch
from dp_accounting import GaussianDpEvent
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from fedguard.vertical.privacy import (
    clip_rows,
    noise_multiplier,
    noise_multiplier_slope,
    total_epsilon,
)


def delta_of(m, epsilon):
    """Return the exact delta of the Gaussian mechanism (Balle and Wang, theorem 8)."""
    return norm.cdf(0.5 / m - epsilon * m) - math.exp(epsilon) * norm.cdf(-0.5 / m - epsilon * m)


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0, 4.0, 16.0, 32.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_the_noise_gives_exactly_the_delta_asked_for(epsilon, delta):
    m = noise_multiplier(epsilon, delta)
    assert delta_of(m, epsilon) <= delta * (1 + 1e-3)
    assert delta_of(m * 0.999, epsilon) > delta


def test_it_needs_less_noise_than_the_classical_bound():
    for epsilon in (0.2, 0.5, 0.9):
        assert noise_multiplier(epsilon, 1e-6) < math.sqrt(2 * math.log(1.25e6)) / epsilon


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 8.0, 32.0])
def test_its_slope_equals_finite_differences(epsilon):
    step = 1e-4 * epsilon
    up, down = noise_multiplier(epsilon + step, 1e-5), noise_multiplier(epsilon - step, 1e-5)
    numeric = (up - down) / (2 * step)
    assert noise_multiplier_slope(epsilon, 1e-5) == pytest.approx(numeric, rel=1e-5)


@settings(deadline=None, max_examples=30)
@given(st.floats(0.01, 100.0), st.integers(0, 1000))
def test_clipping_bounds_rows_and_leaves_short_ones(bound, seed):
    h = 10.0 * torch.randn(8, 5, generator=torch.Generator().manual_seed(seed))
    clipped = clip_rows(h, bound)
    assert (clipped.norm(dim=1) <= bound * (1 + 1e-5)).all()
    short = h.norm(dim=1) <= bound
    assert torch.equal(clipped[short], h[short])
    assert torch.isfinite(clip_rows(torch.zeros(2, 3), bound)).all()


def test_releases_compose_as_an_independent_accountant_says():
    multipliers = [2.0, 3.0, 2.5, 4.0] * 3
    accountant = PLDAccountant()
    for m in multipliers:
        accountant.compose(GaussianDpEvent(m))
    assert total_epsilon(multipliers, 1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=2e-3)


def test_one_release_costs_its_own_epsilon_and_none_costs_nothing():
    assert total_epsilon([noise_multiplier(3.0, 1e-5)], 1e-5) == pytest.approx(3.0, rel=1e-4)
    assert total_epsilon([], 1e-5) == 0.0
    assert total_epsilon([math.inf], 1e-5) == 0.0
    assert total_epsilon([1.0, 0.0], 1e-5) == math.inf
