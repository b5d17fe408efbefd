"""The account of all releases: closed forms, an independent accountant, and what is recorded."""

from __future__ import annotations

import math

import pytest
from dp_accounting import GaussianDpEvent
from dp_accounting.pld import PLDAccountant
from scipy.stats import norm

from fedguard.errors import ConfigurationError
from fedguard.vertical.privacy import noise_multiplier
from fedguard.vertical.strategy import VerticalRound
from fedguard.vertical.terms import Claim, PrivacyTerms
from fedguard.vertical.vfl import PrivateVfl, Vfl

DELTA = 1e-5


def private():
    """Return a strategy whose parties may claim what they like between 0.5 and 20."""
    strategy = PrivateVfl(delta=DELTA)
    strategy.privacy = PrivacyTerms(1.0, DELTA, 0.5, 20.0, 0.0, at_inference=False)
    return strategy


def play(strategy, rounds):
    """Settle rounds, each a mapping of party to the epsilon that it claimed for it."""
    found = []
    strategy.parties = 3
    for server_round, claims in enumerate(rounds, start=1):
        strategy.claims = {p: Claim(epsilon, 1.0) for p, epsilon in claims.items()}
        found.append(VerticalRound(server_round, asked=(0, *claims)))
        strategy.settle(found[-1], [0.0] * 3)
    return found


def test_one_round_costs_its_epsilon_and_the_total_is_mu_gdp():
    """k releases at multiplier m are one at m / sqrt(k): Dong et al. 2022, corollary 3.3."""
    found = play(private(), [{1: 4.0}] * 9)
    assert found[0].scores["total_epsilon"][1] == pytest.approx(4.0, rel=1e-6)
    mu = 3.0 / noise_multiplier(4.0, DELTA)  # sqrt(9) / m
    total = found[-1].scores["total_epsilon"][1]
    delta = norm.cdf(mu / 2 - total / mu) - math.exp(total) * norm.cdf(-mu / 2 - total / mu)
    assert delta == pytest.approx(DELTA, rel=1e-4)
    assert 4.0 < total < 9 * 4.0


def test_parties_with_changing_epsilons_are_accounted_one_by_one():
    epsilons = {1: [8.0, 4.0, 2.0, 6.0], 2: [1.0, 1.0, 1.0, 9.0]}
    strategy = private()
    found = play(strategy, [{p: epsilons[p][n] for p in epsilons} for n in range(4)])
    for party, spent in epsilons.items():
        accountant = PLDAccountant()
        for epsilon in spent:
            accountant.compose(GaussianDpEvent(noise_multiplier(epsilon, DELTA)))
        expected = accountant.get_epsilon(DELTA)
        assert found[-1].scores["total_epsilon"][party] == pytest.approx(expected, rel=2e-3)
        assert strategy.account()[party] == pytest.approx(expected, rel=2e-3)
        totals = [one.scores["total_epsilon"][party] for one in found]
        assert totals == sorted(totals)
        assert [one.scores["epsilon"][party] for one in found] == spent


def test_rounds_that_a_party_sits_out_cost_it_nothing():
    strategy = private()
    play(strategy, [{1: 4.0, 2: 4.0}, {1: 4.0}])
    assert strategy.account()[2] == pytest.approx(4.0, rel=1e-4)
    assert strategy.account()[1] > 4.5


def test_who_claims_no_protection_has_no_account():
    strategy = private()
    (found,) = play(strategy, [{1: math.inf, 2: 3.0}])
    assert set(found.scores["epsilon"]) == set(found.scores["total_epsilon"]) == {2}
    assert set(strategy.account()) == {2}
    plain = Vfl()
    (found,) = play(plain, [{1: math.inf}])
    assert found.scores == {}
    assert plain.account() == {}


@pytest.mark.parametrize("epsilon", [15.9, 16.1, 1e-300, 1e300, math.inf])
def test_a_claim_beyond_the_terms_is_not_heard(epsilon):
    strategy = PrivateVfl(epsilon=16.0, delta=DELTA)
    (found,) = play(strategy, [{1: epsilon, 2: 16.0}])
    assert set(found.faults) == {1}
    assert "beyond the terms" in found.faults[1]
    assert set(strategy.claims) == set(strategy.account()) == {2}


def test_the_account_survives_a_restart():
    strategy, other = private(), private()
    play(strategy, [{1: 4.0, 2: 1.0}] * 3)
    strategy.left = {2: "left"}
    other.load_state(strategy.state())
    assert other.account() == strategy.account()
    assert other.claims == strategy.claims
    assert set(other.left) == {2}
    (found,) = play(other, [{1: 4.0}])
    (again,) = play(strategy, [{1: 4.0}])
    assert found.scores == again.scores


def test_terms_name_one_fixed_epsilon_and_spare_the_label_holder():
    strategy = PrivateVfl(epsilon=3.0, delta=1e-6, clip=0.7, noise_at_inference=True)
    privacy = strategy.terms(2).privacy
    assert (privacy.clip, privacy.delta, privacy.sensitivity) == (0.7, 1e-6, 1.4)
    assert (privacy.epsilon_min, privacy.epsilon_max, privacy.step) == (3.0, 3.0, 0.0)
    assert privacy.at_inference
    assert strategy.terms(2).initial_epsilon == 3.0
    assert strategy.terms(0).privacy is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("epsilon", 0.0), ("delta", 0.0), ("clip", -1.0), ("embedding", 0), ("arch", "old")],
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ConfigurationError, match=name):
        PrivateVfl(**{name: value})
