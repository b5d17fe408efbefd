from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from fedguard.vertical.models import make_bottom, make_top
from fedguard.vertical.privacy import clip_rows, noise_multiplier, noise_multiplier_slope
from fedguard.vertical.rewards import (
    LOSS_FLOOR,
    RewardRule,
    contribution,
    contribution_over_cost,
    gini,
    largest_remainder,
)

weights = st.lists(st.floats(0, 1e12, allow_nan=False), min_size=1, max_size=30)


@settings(deadline=None)
@given(weights, st.integers(0, 10**9))
def test_tokens_always_sum_to_the_budget(values, budget):
    tokens = largest_remainder(values, budget)
    assert sum(tokens) == budget
    assert min(tokens) >= 0


@settings(deadline=None)
@given(weights, st.integers(1, 10**6))
def test_no_party_is_off_its_share_by_a_token_or_more(values, budget):
    total = math.fsum(values)
    if total == 0 or not math.isfinite(total):
        return
    for value, token in zip(values, largest_remainder(values, budget), strict=True):
        assert abs(token - value / total * budget) < 1 + 1e-6


def test_known_divisions():
    assert largest_remainder([1, 1, 1], 100) == [34, 33, 33]
    assert largest_remainder([0, 0], 3) == [2, 1]
    assert largest_remainder([], 5) == []
    assert largest_remainder([47, 16, 15.8, 12, 6.1, 3.1], 10) == [5, 2, 1, 1, 1, 0]
    with pytest.raises(ValueError, match="finite"):
        largest_remainder([math.nan], 5)


def test_privacy_pay_alone_is_worth_nothing_under_the_cap():
    assert RewardRule().score(0.0, 1.0, 1.0) == 0.0
    assert RewardRule(privacy_cap=None).score(0.0, 1.0, 1.0) == 2.0
    rule = RewardRule(alpha=2.0, beta=3.0, sensitivity=0.1)
    assert rule.score(10.0, 32.0, 0.5) == pytest.approx(2.0 * 10.0 * 2.0 + 3.0 * 0.1 / 0.5)


def test_contribution_over_cost():
    assert contribution_over_cost([3.0, 0.0], [1.0, 0.0], 1.0) == [0.75, 0.0]


def test_gini():
    assert gini([5, 5, 5, 5]) == pytest.approx(0.0)
    assert gini([0, 0, 0, 1]) == pytest.approx(0.75)
    assert gini([]) == 0.0


class Release:
    """One party's real release, in double precision, as a function of its epsilon."""

    def __init__(self, cap, beta=1.0, seed=0, delta=1e-5):
        torch.manual_seed(seed)
        self.rule = RewardRule(alpha=0.7, beta=beta, sensitivity=2.0, privacy_cap=cap)
        self.delta, self.ratio = delta, 0.3
        self.bottom = make_bottom((6,), 5, "modern", seed, 1).double()
        self.top = make_top(3, 5, 4, "modern", False, seed).double()
        self.x = torch.randn(16, 6, dtype=torch.float64)
        self.others = torch.randn(16, 2, 5, dtype=torch.float64)
        self.z = torch.randn(16, 5, dtype=torch.float64)
        self.y = torch.randint(4, (16,))
        self.without = 2.1  # the loss without the party does not depend on its epsilon

    def loss(self, epsilon):
        h = clip_rows(self.bottom(self.x), 1.0).detach()
        sigma = 2.0 * noise_multiplier(epsilon, self.delta)
        released = (h + sigma * self.z).requires_grad_()
        blocks = torch.cat([self.others, released[:, None]], dim=1)
        return functional.cross_entropy(self.top(blocks), self.y), released

    def score(self, epsilon):
        loss = float(self.loss(epsilon)[0].detach())
        return self.rule.score(contribution(loss, self.without), self.ratio, epsilon)

    def slope(self, epsilon):
        loss, released = self.loss(epsilon)
        (gradient,) = torch.autograd.grad(loss, released)
        spread = 2.0 * noise_multiplier_slope(epsilon, self.delta)
        return self.rule.slope(
            loss=float(loss.detach()),
            contributed=contribution(float(loss.detach()), self.without),
            loss_slope=spread * float((gradient * self.z).sum()),
            cost_ratio=self.ratio,
            epsilon=epsilon,
        )


@pytest.mark.parametrize("epsilon", [0.5, 0.9, 3.0, 16.0])
@pytest.mark.parametrize("cap", [None, 0.5, 0.001])
@pytest.mark.parametrize("beta", [0.0, 1.0, 50.0])
def test_the_slope_of_the_reward_equals_finite_differences(epsilon, cap, beta):
    for seed in range(3):
        release = Release(cap, beta, seed)
        assert float(release.loss(epsilon)[0].detach()) > LOSS_FLOOR
        step = 1e-4 * epsilon
        numeric = (release.score(epsilon + step) - release.score(epsilon - step)) / (2 * step)
        assert release.slope(epsilon) == pytest.approx(numeric, rel=1e-4, abs=1e-9)
