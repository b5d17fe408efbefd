from __future__ import annotations

import math

import pytest
import torch
from dp_accounting import GaussianDpEvent, get_epsilon_gaussian, get_sigma_gaussian
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from fedguard.vertical.privacy import (
    clip_factors,
    clip_gradient,
    clip_rows,
    epsilon_of,
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


@settings(deadline=None, max_examples=60)
@given(st.floats(1e-3, 1e3), st.floats(1e-12, 0.4))
def test_the_calibration_is_the_accounting_librarys(epsilon, delta):
    m = noise_multiplier(epsilon, delta)
    assert m == pytest.approx(get_sigma_gaussian(epsilon, delta), rel=1e-7)
    assert epsilon_of(m, delta) == pytest.approx(get_epsilon_gaussian(m, delta), rel=1e-7, abs=1e-9)


def test_noise_beyond_all_measure_costs_nothing():
    assert epsilon_of(1e9, 1e-5) == 0.0


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


@pytest.mark.parametrize("shape", [(9, 1), (9, 4), (3, 9, 4)])
def test_the_gradient_through_clipping_is_autograds(shape):
    stream = torch.Generator().manual_seed(2)
    h = torch.randn(shape, generator=stream, dtype=torch.float64).requires_grad_()
    gradient = torch.randn(shape, generator=stream, dtype=torch.float64)
    plain = h.detach()
    bound = float(plain.norm(dim=-1).median()) * 1.01
    (expected,) = torch.autograd.grad(clip_rows(h, bound), h, gradient)
    factors = clip_factors(plain, bound)
    assert 0 < (factors > 1.0).sum() < factors.numel()
    found = clip_gradient(plain / factors, factors, gradient, bound)
    torch.testing.assert_close(found, expected)


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
