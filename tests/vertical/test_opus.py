"""OPUS-VFL's end of a round: who is paid what, who is caught, who leaves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from fedguard.errors import ConfigurationError
from fedguard.vertical.label_holder import LabelHolder
from fedguard.vertical.models import make_top
from fedguard.vertical.opus import OpusVfl
from fedguard.vertical.privacy import noise_multiplier
from fedguard.vertical.schedule import BatchSchedule
from fedguard.vertical.strategy import VerticalRound
from fedguard.vertical.terms import Claim, Optimiser

ROWS, PARTIES, WIDTH = 50, 4, 8


def bound(**options):
    strategy = OpusVfl(**{"embedding": WIDTH, "verify_noise": False, **options})
    y = torch.arange(ROWS) % 3
    holder = LabelHolder(y, y, 3, make_top(PARTIES, WIDTH, 3, "modern", False, 0), Optimiser(0.1))
    strategy.bind(holder, BatchSchedule(ROWS, 10, 0), PARTIES)
    strategy.claims = {p: Claim(16.0, 1.0) for p in range(1, PARTIES)}
    return strategy


def settled(strategy, contributions, server_round=1, **facts):
    found = VerticalRound(server_round, asked=tuple(strategy.active), batches=5, **facts)
    strategy.settle(found, contributions)
    return found


def test_scores_and_tokens_by_hand():
    """R = alpha C c^(1/5) + min(beta S / epsilon, cap alpha C c^(1/5)) with S = 2 C_clip."""
    terms = {"alpha": 2.0, "beta": 100.0, "clip": 0.5, "privacy_cap": 0.5, "budget": 1000}
    strategy = bound(**terms, cost_ratios=(1.0, 32.0, 1.0))
    strategy.claims = {1: Claim(16.0, 1.0), 2: Claim(10.0, 32.0), 3: Claim(12.0, 1.0)}
    found = settled(strategy, [50.0, 4.0, 30.0, -7.0])
    expected = {
        1: 8.0 + 4.0,  # pay for privacy 100 / 16 is capped at half of 8
        2: 2.0 * 30.0 * 2.0 + 100.0 / 10.0,
        3: 0.0,  # a negative contribution counts as none, and privacy alone is worth nothing
    }
    assert found.scores["score"] == pytest.approx(expected)
    assert sum(found.tokens.values()) == 1000
    for party, score in expected.items():
        assert abs(found.tokens[party] - 1000 * score / 142.0) < 1.0
    assert found.scores["contribution"] == {0: 50.0, 1: 4.0, 2: 30.0, 3: 0.0}
    assert found.scores["utility"] == {p: found.tokens[p] - 5.0 for p in (1, 2, 3)}


def test_contribution_over_cost_by_hand():
    strategy = bound(
        reward="contribution-over-cost", gamma=2.0, resource_costs=(5.0, 10.0), budget=100
    )
    found = settled(strategy, [0.0, 10.0, 20.0, 0.0])
    assert found.scores["score"] == {1: 10.0 / 20.0, 2: 20.0 / 40.0, 3: 0.0}
    assert found.tokens == {1: 50, 2: 50, 3: 0}
    # costs repeat where there are too few
    assert [strategy.cost(p) for p in (1, 2, 3, 4)] == [5.0, 10.0, 5.0, 10.0]
    assert strategy.terms(1).reward is None


def test_contributions_that_are_no_numbers_are_worth_nothing():
    found = settled(bound(budget=90), [1.0, math.nan, math.inf, 9.0])
    assert found.tokens == {1: 0, 2: 0, 3: 90}


def test_who_never_answered_is_not_paid_and_who_missed_a_batch_is():
    strategy = bound(budget=90)
    found = settled(
        strategy, [1.0, 9.0, 9.0, 9.0], faults={1: "x", 2: "x"}, fault_batches={1: 5, 2: 4}
    )
    assert 1 not in found.tokens
    assert found.tokens == {2: 45, 3: 45}
    assert found.scores["utility"][1] == -5.0


def test_utility_is_judged_over_three_rounds_after_the_warm_up():
    strategy = bound(budget=100, warmup=3, resource_costs=(40.0,))
    pays = [90.0, 10.0, 0.0]
    for server_round in (1, 2):
        settled(strategy, [0.0, *pays], server_round)
        assert strategy.left == {}
    settled(strategy, [0.0, 0.0, 100.0, 0.0], 3)
    # party 1: 50, 50, -40; party 2: -30, -30, 60, exactly 0; party 3: -40 three times
    assert set(strategy.left) == {3}
    assert "utility -40.0" in strategy.left[3]
    settled(strategy, [0.0, 0.0, 100.0, 0.0], 4)
    # party 1: 50, -40, -40
    assert set(strategy.left) == {1, 3}
    assert strategy.active == [0, 2]


def test_first_epsilons_are_drawn_within_the_limits_by_seed_and_party():
    strategy = OpusVfl(epsilon_min=2.0, epsilon_max=6.0, seed=1)
    drawn = np.array([strategy.terms(p).initial_epsilon for p in range(1, 400)])
    assert 2.0 <= drawn.min() < 2.1
    assert 5.9 < drawn.max() <= 6.0
    assert drawn.mean() == pytest.approx(4.0, abs=4 * 4.0 / math.sqrt(12 * 399))
    again = OpusVfl(epsilon_min=2.0, epsilon_max=6.0, seed=1)
    assert again.terms(7).initial_epsilon == drawn[6]
    other = OpusVfl(epsilon_min=2.0, epsilon_max=6.0, seed=2)
    assert other.terms(7).initial_epsilon != drawn[6]
    fixed = OpusVfl(initial_epsilon=9.0)
    assert fixed.terms(3).initial_epsilon == 9.0
    assert strategy.terms(0).privacy is None
    assert [OpusVfl(cost_ratios=(1.0, 3.0)).terms(p).cost_ratio for p in (1, 2, 3)] == [1, 3, 1]


# --- claimed cost -------------------------------------------------------------------------------


def paid_for_claims(*claims, **options):
    """Return what parties that contribute equally are paid for the costs that they claim."""
    strategy = bound(budget=900, beta=0.0, **options)
    strategy.claims = {p: Claim(16.0, cost) for p, cost in enumerate(claims, start=1)}
    found = settled(strategy, [1.0, 9.0, 9.0, 9.0])
    assert sum(found.tokens.values()) == 900
    return found


@pytest.mark.parametrize("claim", [32.0, 1e6, 1e300])
def test_no_claim_pays_where_all_are_agreed_to_cost_the_same(claim):
    found = paid_for_claims(claim, 1.0, 1.0)
    assert found.tokens == {1: 300, 2: 300, 3: 300}
    assert found.faults == {1: f"claims to cost {claim:g}; paid as 1"}
    believed = paid_for_claims(claim, 1.0, 1.0, cost_claims="believed")
    weight = claim**0.2
    assert abs(believed.tokens[1] - 900 * weight / (weight + 2.0)) < 1.0
    assert believed.faults == {}


@pytest.mark.parametrize("ratios", [(1.0, 1.0, 1.0), (1.0, 4.0, 1.0), (32.0, 1.0, 0.25)])
def test_honest_claims_are_paid_as_they_were(ratios):
    tariff, believed = (
        paid_for_claims(*ratios, cost_ratios=ratios, cost_claims=rule)
        for rule in ("tariff", "believed")
    )
    assert tariff.tokens == believed.tokens
    assert tariff.faults == {}


def test_a_liar_gets_at_most_what_the_costliest_is_agreed_to_get():
    agreed = (1.0, 4.0, 1.0)
    found = paid_for_claims(1e6, 4.0, 1.0, cost_ratios=agreed)
    score = found.scores["score"]
    assert score[1] == score[2] == pytest.approx(4.0**0.2 * score[3])
    assert abs(found.tokens[1] - found.tokens[2]) <= 1  # of 900, the last one by remainder
    # the costliest gains nothing, and who claims too little is paid too little
    costly = paid_for_claims(1.0, 1e6, 1.0, cost_ratios=agreed)
    assert costly.tokens == paid_for_claims(1.0, 4.0, 1.0, cost_ratios=agreed).tokens
    modest = paid_for_claims(0.25, 1.0, 1.0)
    assert modest.tokens[1] < modest.tokens[2]


# --- claimed noise ------------------------------------------------------------------------------


def sigma_of(epsilon):
    return 2.0 * noise_multiplier(epsilon, 1e-5)


def released(seed, scale, rows=10):
    """Return blocks of constant rows with noise of some deviation, one value per party."""
    stream = torch.Generator().manual_seed(seed)
    noise = torch.randn(PARTIES, rows, WIDTH, generator=stream)
    return {p: 3.0 + scale[p] * noise[p] for p in range(PARTIES)}


def test_the_statistic_is_the_variation_about_a_batchs_mean():
    strategy = bound(verify_noise=True)
    total = dict.fromkeys((1, 2, 3), 0.0)
    for seed in range(3):
        blocks = released(seed, dict.fromkeys(range(PARTIES), 1.0))
        strategy.observe(blocks)
        for party in total:
            rows = blocks[party].double().numpy()
            total[party] += float(((rows - rows.mean(axis=0)) ** 2).sum())
    assert set(strategy._energy) == {1, 2, 3}
    for party, (energy, freedom) in strategy._energy.items():
        assert energy == pytest.approx(total[party], rel=1e-5)
        assert freedom == 3 * 9 * WIDTH


def test_who_adds_the_noise_it_claims_is_not_accused():
    strategy = bound(verify_noise=True)
    for seed in range(40):
        for number in range(5):
            strategy.observe(released(5 * seed + number, dict.fromkeys(range(4), sigma_of(16.0))))
        found = settled(strategy, [1.0, 5.0, 5.0, 5.0], seed)
        assert found.faults == {}


def test_who_adds_too_little_is_not_paid():
    strategy = bound(verify_noise=True, budget=90)
    sigma = sigma_of(16.0)
    scale = {0: 0.0, 1: sigma, 2: 0.0, 3: 0.5 * sigma}
    for number in range(5):
        strategy.observe(released(number, scale))
    found = settled(strategy, [1.0, 5.0, 50.0, 50.0])
    assert set(found.faults) == {2, 3}
    assert found.tokens == {1: 90, 2: 0, 3: 0}
    assert strategy._energy == {}
    # nobody looked at anything since, so nobody is accused
    assert settled(strategy, [1.0, 5.0, 5.0, 5.0], 2).faults == {}


@pytest.mark.parametrize(("times", "caught"), [(0.98, True), (1.02, False)])
def test_the_line_is_at_one_false_alarm_in_a_thousand_million(times, caught):
    strategy = bound(verify_noise=True)
    freedom = 360
    limit = chi2.ppf(1e-9, freedom) * sigma_of(16.0) ** 2
    strategy._energy = {1: (times * limit, freedom)}
    assert (1 in settled(strategy, [1.0, 5.0, 5.0, 5.0]).faults) == caught


@pytest.mark.parametrize("epsilon", [7.9, 32.1, 1e-300, math.inf])
def test_a_claim_beyond_the_limits_earns_nothing_for_privacy(epsilon):
    strategy = bound(verify_noise=True, privacy_cap=None, beta=1e6, budget=100)
    strategy.claims[2] = Claim(epsilon, 1e9)
    strategy.observe(released(0, dict.fromkeys(range(4), sigma_of(16.0))))
    found = settled(strategy, [1.0, 5.0, 5.0, 5.0])
    assert found.scores["score"][2] == 5.0  # its contribution at a cost ratio of 1
    assert sum(found.tokens.values()) == 100


# --- gradients and state ------------------------------------------------------------------------


def blocks():
    stream = torch.Generator().manual_seed(2)
    return {p: {"embedding": torch.randn(10, WIDTH, generator=stream)} for p in range(PARTIES)}


def test_gradient_noise_is_a_multiple_of_the_largest_rows_norm():
    """E |noise row|^2 = (gradient_noise * largest norm)^2."""
    strategy = bound(gradient_noise=2.0)
    energies = []
    for _ in range(100):
        step, found = strategy.step(blocks(), torch.arange(10))
        plain = step.gradients[:, 1]
        added = (found[1] - plain) / plain.norm(dim=1).max()
        energies.append(float(added.square().sum()) / 10)
        torch.testing.assert_close(found[0], step.gradients[:, 0])
    assert np.mean(energies) == pytest.approx(4.0, rel=5 * math.sqrt(2 / (100 * 10 * WIDTH)))


def test_a_resumed_run_goes_on_with_the_same_noise_and_memory():
    one, other = bound(gradient_noise=1.0), bound(gradient_noise=1.0)
    for server_round in (1, 2):
        one.step(blocks(), torch.arange(10))
        settled(one, [0.0, 5.0, 4.0, 0.0], server_round)
    other.load_state(one.state())
    other._holder.load_state(one._holder.state())
    assert other.utilities == one.utilities
    assert [len(v) for v in other.utilities.values()] == [2, 2, 2]
    assert other.account() == one.account()
    mine, theirs = (s.step(blocks(), torch.arange(10))[1] for s in (one, other))
    assert all(torch.equal(mine[p], theirs[p]) for p in mine)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha", -1.0),
        ("beta", -1.0),
        ("gamma", -1.0),
        ("step", 1.5),
        ("warmup", -1),
        ("gradient_noise", -0.1),
        ("privacy_cap", -0.5),
        ("budget", 0),
        ("initial_epsilon", 1.0),
        ("initial_epsilon", 33.0),
        ("cost_ratios", ()),
        ("cost_ratios", (1.0, 0.0)),
        ("resource_costs", (-1.0,)),
        ("epsilon_min", 0.0),
        ("loo", "none"),
        ("cost_claims", "audited"),
        ("delta", 1.0),
        ("clip", 0.0),
    ],
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ConfigurationError, match=name):
        OpusVfl(**{name: value})
