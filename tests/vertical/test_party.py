"""A party by itself: its noise, its steps, its epsilon, what it estimates and what it keeps."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from scipy.stats import norm
from torch import nn

from fedguard.vertical.attacks.base import VerticalAttack
from fedguard.vertical.data import PartyView
from fedguard.vertical.parties import Party
from fedguard.vertical.privacy import clip_rows
from fedguard.vertical.releases import LoneParty
from fedguard.vertical.rewards import RewardRule
from fedguard.vertical.terms import Claim, Optimiser, PartyTerms, PrivacyTerms

ROWS, FEATURES, EMBEDDING = 40, 6, 4
PRIVACY = PrivacyTerms(0.8, 1e-5, 2.0, 10.0, 0.25, at_inference=False)
PLAIN = PartyTerms(EMBEDDING)
SGD = Optimiser(0.1)
NOISY = PartyTerms(EMBEDDING, PRIVACY, initial_epsilon=4.0)


def make(terms=PLAIN, index=1, seed=3, attack=None, bottom=None, optimiser=SGD):
    stream = torch.Generator().manual_seed(7)
    view = PartyView(*(torch.randn(n, FEATURES, generator=stream) for n in (ROWS, 2000)))
    if bottom is None:
        with torch.random.fork_rng():
            torch.manual_seed(11)
            bottom = nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, EMBEDDING))
    return Party(index, view, bottom, terms, optimiser, seed, attack)


def test_sigma_gives_one_release_exactly_its_epsilon():
    """Replacing a row moves a release by at most 2 C; Balle and Wang, theorem 8, says the delta."""
    sigma, epsilon, moved = make(NOISY).sigma, 4.0, 2.0 * PRIVACY.clip
    a, b = moved / (2 * sigma), epsilon * sigma / moved
    delta = norm.cdf(a - b) - math.exp(epsilon) * norm.cdf(-a - b)
    assert delta == pytest.approx(PRIVACY.delta, rel=1e-6)
    assert make(PLAIN).sigma == 0.0


class Shouts(VerticalAttack):
    """Releases a hundred times too much, with a third of the noise."""

    noise_factor = 1 / 3

    def before_release(self, party, h, server_round, ids):
        return 100.0 * h

    def claim(self, party, honest):
        return Claim(99.0, honest.cost_ratio)


def test_a_liar_adds_less_noise_but_is_clipped_as_everyone():
    honest, liar = make(NOISY), make(NOISY, attack=Shouts())
    assert liar.sigma == pytest.approx(honest.sigma / 3)
    ids = torch.arange(ROWS)
    released = LoneParty(liar).embed(1, 0, ids)["embedding"] - liar.noise_of_round(1)
    assert released.norm(dim=1).tolist() == pytest.approx([PRIVACY.clip] * ROWS, rel=1e-4)
    assert liar.settle().epsilon == 99.0
    assert honest.settle().epsilon == 4.0


def test_noise_is_a_value_of_seed_round_and_party():
    one = make(NOISY).noise_of_round(1)
    assert torch.equal(one, make(NOISY).noise_of_round(1))
    others = [make(NOISY).noise_of_round(2), make(NOISY, seed=4).noise_of_round(1)]
    others.append(make(NOISY, index=2).noise_of_round(1))
    for other in others:
        overlap = float((one * other).mean()) / float(one.std() * other.std())
        assert abs(overlap) < 4 / math.sqrt(one.numel())
    assert not make(PLAIN).noise_of_round(1).any()


def test_steps_are_those_of_sgd_with_momentum_and_decay():
    optimiser = Optimiser(0.1, momentum=0.9, weight_decay=0.02)
    party = make(optimiser=optimiser)
    lone, reference = LoneParty(party), copy.deepcopy(party.bottom)
    velocity = [torch.zeros_like(p) for p in reference.parameters()]
    stream = torch.Generator().manual_seed(0)
    for number in range(4):
        ids = torch.randperm(ROWS, generator=stream)[:9]
        gradient = torch.randn(9, EMBEDDING, generator=stream)
        released = lone.embed(1, number, ids)["embedding"]
        output = reference(party.view.x_train[ids])
        torch.testing.assert_close(released, output.detach())
        found = torch.autograd.grad(output, list(reference.parameters()), gradient)
        with torch.no_grad():
            for p, g, v in zip(reference.parameters(), found, velocity, strict=True):
                v.mul_(0.9).add_(g + 0.02 * p)
                p.sub_(0.1 * v)
        lone.learn(gradient, 1.0, float("nan"))
    for mine, wanted in zip(party.parameters, reference.parameters(), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("noisy", [False, True])
def test_test_rows_carry_noise_only_where_the_terms_say_so(noisy):
    privacy = PrivacyTerms(0.8, 1e-5, 2.0, 10.0, 0.0, at_inference=noisy)
    party = make(PartyTerms(EMBEDDING, privacy, initial_epsilon=4.0))
    clean = clip_rows(party.bottom(party.view.x_test), 0.8).detach()
    added = party.embed_test(3) - clean
    if noisy:
        assert added.std().item() == pytest.approx(party.sigma, rel=0.05)
        assert torch.equal(party.embed_test(3), party.embed_test(3))
        assert not torch.equal(party.embed_test(3), party.embed_test(4))
        assert not torch.equal(added[:ROWS], party.noise_of_round(3))
    else:
        assert added.abs().max() < 1e-6


# --- epsilon ------------------------------------------------------------------------------------


def test_epsilon_moves_by_the_mean_slope_over_its_running_size():
    party = make(NOISY)
    room, share = PRIVACY.epsilon_max - PRIVACY.epsilon_min, PRIVACY.step
    party.slope_sum, party.slope_count = 6.0, 3
    assert party.settle().epsilon == pytest.approx(4.0 + share * room)  # the first is its own size
    party.slope_sum, party.slope_count = -1.0, 1
    size = 0.9 * 2.0 + 0.1 * 1.0
    assert party.settle().epsilon == pytest.approx(4.0 + share * room - share * room / size)
    before = party.epsilon
    assert party.settle().epsilon == before  # no slopes, no move


@pytest.mark.parametrize(("slope", "limit"), [(1.0, 10.0), (-1.0, 2.0)])
def test_epsilon_stops_at_its_limits(slope, limit):
    party = make(NOISY)
    for _ in range(20):
        party.slope_sum, party.slope_count = slope, 1
        party.settle()
    assert party.epsilon == limit


def test_without_privacy_a_party_claims_no_protection():
    assert make(PartyTerms(EMBEDDING, cost_ratio=0.3)).settle() == Claim(math.inf, 0.3)


def test_the_slope_of_the_reward_is_taken_along_the_partys_own_noise():
    """dL / d epsilon = <dL/dh~, z> S dm/d epsilon, by finite differences of sigma."""
    rule = RewardRule(beta=0.0)
    terms = PartyTerms(EMBEDDING, PRIVACY, rule, initial_epsilon=4.0)
    party = make(terms)
    lone, ids = LoneParty(party), torch.arange(10)
    gradient = torch.randn(10, EMBEDDING, generator=torch.Generator().manual_seed(2))
    z = party.noise_of_round(1)[ids] / party.sigma
    sigmas = []
    for epsilon in (4.0 - 1e-4, 4.0 + 1e-4):
        moved = make(PartyTerms(EMBEDDING, PRIVACY, rule, initial_epsilon=epsilon))
        sigmas.append(moved.sigma)
    loss_slope = float((gradient * z).sum()) * (sigmas[1] - sigmas[0]) / 2e-4
    lone.embed(1, 0, ids)
    lone.learn(gradient, 0.5, 20.0)
    # R = C = 100 (L_-i / L - 1), so dR / dL = -100 L_-i / L^2 with L_-i = 1.2 L
    expected = -100.0 * 1.2 * 0.5 / 0.5**2 * loss_slope
    assert party.slope_sum == pytest.approx(expected, rel=1e-3)
    assert party.slope_count == 1


def test_a_loss_without_end_moves_no_epsilon():
    party = make(PartyTerms(EMBEDDING, PRIVACY, RewardRule(), initial_epsilon=4.0))
    lone = LoneParty(party)
    for number, loss in enumerate((math.nan, math.inf)):
        lone.embed(1, number, torch.arange(5))
        lone.learn(torch.ones(5, EMBEDDING), loss, math.nan)
    assert party.settle().epsilon == 4.0


def test_a_fixed_epsilon_follows_nothing():
    fixed = PrivacyTerms(0.8, 1e-5, 2.0, 10.0, 0.0, at_inference=False)
    party = make(PartyTerms(EMBEDDING, fixed, RewardRule(), initial_epsilon=4.0))
    lone = LoneParty(party)
    lone.embed(1, 0, torch.arange(5))
    lone.learn(torch.ones(5, EMBEDDING), 0.5, 20.0)
    assert (party.slope_sum, party.slope_count) == (0.0, 0)


# --- zeroth order -------------------------------------------------------------------------------


def zeroth(mu, lr=0.1):
    bottom = nn.Linear(FEATURES, EMBEDDING, bias=False)
    with torch.no_grad():
        bottom.weight.copy_(torch.linspace(-1, 1, bottom.weight.numel()).view_as(bottom.weight))
    return make(PartyTerms(EMBEDDING, zeroth_order=mu), bottom=bottom, optimiser=Optimiser(lr))


def test_the_perturbed_release_is_that_of_weights_moved_by_mu():
    mu = 0.05
    party = zeroth(mu)
    before, ids = party.bottom.weight.detach().clone(), torch.arange(ROWS)
    released = LoneParty(party).embed(1, 0, ids)
    assert torch.equal(party.bottom.weight, before)
    x = party.view.x_train.double()
    moved = torch.linalg.lstsq(x, released["perturbed"].double()).solution.T - before.double()
    assert float(moved.norm()) == pytest.approx(mu, rel=1e-3)


def test_the_step_is_the_difference_quotient_along_the_direction():
    mu, lr, difference = 0.05, 0.1, 0.003
    party = zeroth(mu, lr)
    lone, ids = LoneParty(party), torch.arange(ROWS)
    before = party.bottom.weight.detach().clone()
    released = lone.embed(1, 0, ids)
    x = party.view.x_train.double()
    u = (torch.linalg.lstsq(x, released["perturbed"].double()).solution.T - before.double()) / mu
    lone.learn(torch.tensor([difference]), 1.0, float("nan"))
    step = party.bottom.weight.detach().double() - before.double()
    torch.testing.assert_close(step, -lr * difference / mu * u, rtol=1e-3, atol=1e-6)


def test_many_estimates_average_to_the_gradient():
    """E[D <g, u> u] = g for u uniform on the unit sphere in D dimensions."""
    mu = 1e-3
    party = zeroth(mu, lr=0.0)
    ids = torch.arange(ROWS)
    target = torch.randn(ROWS, EMBEDDING, generator=torch.Generator().manual_seed(5))
    x, size = party.view.x_train, party.bottom.weight.numel()
    truth = 2 * (x @ party.bottom.weight.detach().T - target).T @ x / ROWS
    total, lone, count = torch.zeros_like(truth), LoneParty(party), 3000

    def loss(h):
        return float((h.double() - target.double()).square().sum()) / ROWS

    for number in range(count):
        released = lone.embed(1, number, ids)
        difference = loss(released["perturbed"]) - loss(released["embedding"])
        lone.learn(torch.tensor([difference]), 1.0, float("nan"))
        total += party.bottom.weight.grad
    error = (size * total / count - truth).norm() / truth.norm()
    assert float(error) < 2.5 * math.sqrt(size / count)


# --- state --------------------------------------------------------------------------------------


class Batched(nn.Module):
    """A bottom model with running statistics."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.norm = nn.Linear(FEATURES, 8), nn.BatchNorm1d(8)
        self.second = nn.Linear(8, EMBEDDING)

    def forward(self, x):
        return self.second(self.norm(self.first(x)).relu())


def test_computing_a_batch_again_leaves_running_statistics_alone():
    kept, forgetful = make(bottom=Batched()), make(bottom=Batched())
    ids, gradient = torch.arange(20), torch.ones(20, EMBEDDING)
    for party in (kept, forgetful):
        lone = LoneParty(party)
        lone.embed(1, 0, ids)
        if party is forgetful:
            party.load_state({name: value.clone() for name, value in party.state().items()})
        lone.learn(gradient, 1.0, float("nan"))
    assert kept.bottom.norm.num_batches_tracked == forgetful.bottom.norm.num_batches_tracked == 1
    for name, value in kept.state().items():
        assert torch.equal(value, forgetful.state()[name]), name


@pytest.mark.parametrize("open_batch", [False, True])
def test_a_party_that_takes_over_a_state_goes_on_bit_for_bit(open_batch):
    optimiser = Optimiser(0.1, momentum=0.9)
    terms = PartyTerms(EMBEDDING, PRIVACY, RewardRule(), initial_epsilon=4.0)
    one, other = make(terms, optimiser=optimiser), make(terms, optimiser=optimiser)
    first, second = LoneParty(one), LoneParty(other)
    stream = torch.Generator().manual_seed(1)

    def batch(lone, number, gradient):
        lone.embed(1, number, torch.arange(number, number + 12))
        lone.learn(gradient, 0.9, 30.0)

    for number in range(3):
        batch(first, number, torch.randn(12, EMBEDDING, generator=stream))
    one.memory["seen"] = torch.arange(4.0)
    if open_batch:
        first.embed(1, 7, torch.arange(12))
    other.load_state({name: value.clone() for name, value in one.state().items()})
    assert (other.batch is not None) == open_batch
    gradient = torch.randn(12, EMBEDDING, generator=stream)
    for lone in (first, second):
        if open_batch:
            lone.learn(gradient, 0.9, 30.0)
        batch(lone, 9, gradient)
    assert one.settle() == other.settle()
    mine, theirs = one.state(), other.state()
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert torch.equal(value, theirs[name]), name


def test_an_answer_that_comes_twice_or_unasked_changes_nothing():
    party = make()
    lone = LoneParty(party)
    before = {name: value.clone() for name, value in party.state().items()}
    lone.learn(torch.ones(5, EMBEDDING), 1.0, 0.0)
    for name, value in party.state().items():
        assert torch.equal(value, before[name]), name
