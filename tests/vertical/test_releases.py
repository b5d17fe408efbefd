"""Parties give the same numbers alone and together, whatever the shapes."""

from __future__ import annotations

import math

import pytest
import torch

from fedguard.vertical.attacks.backdoor import VerticalBackdoor
from fedguard.vertical.data import PartyView
from fedguard.vertical.exchange import fault_of
from fedguard.vertical.models import make_bottom
from fedguard.vertical.parties import Party
from fedguard.vertical.privacy import clip_rows
from fedguard.vertical.releases import LoneParty, PartyGroup
from fedguard.vertical.rewards import RewardRule
from fedguard.vertical.terms import Optimiser, PartyTerms, PrivacyTerms

ROWS = 61
PRIVACY = PrivacyTerms(0.7, 1e-5, 2.0, 9.0, 0.1, at_inference=False)


def party(index, embedding, attack=None, privacy=PRIVACY):
    stream = torch.Generator().manual_seed(index)
    features = 3 + index
    view = PartyView(*(2.0 * torch.randn(n, features, generator=stream) for n in (ROWS, 7)))
    terms = PartyTerms(
        embedding,
        privacy if index else None,
        RewardRule(),
        initial_epsilon=2.0 + index,
    )
    bottom = make_bottom((features,), embedding, "modern", 0, index)
    return Party(index, view, bottom, terms, Optimiser(0.1, 0.9, 0.01), 5, attack)


def backdoor():
    attack = VerticalBackdoor(target=1, known_rows=10, parties=(2,))
    attack.bind(torch.arange(ROWS) % 3, 3, 0)
    return attack


def parties(embedding, attacked=False):
    return [party(i, embedding, backdoor() if attacked and i == 2 else None) for i in range(5)]


@pytest.mark.parametrize("embedding", [1, 5, 32])
@pytest.mark.parametrize("attacked", [False, True])
def test_a_party_alone_equals_a_party_among_others(embedding, attacked):
    alone, group = parties(embedding, attacked), parties(embedding, attacked)
    lone = [LoneParty(one) for one in alone]
    together = PartyGroup(group)
    stream = torch.Generator().manual_seed(1)
    for server_round in (1, 2):
        order = torch.randperm(ROWS, generator=stream)
        for number, ids in enumerate(torch.split(order, 19)):
            found = together.release(range(5), server_round, number, ids)
            gradients = {}
            for one in lone:
                index, released = one.party.index, one.embed(server_round, number, ids)["embedding"]
                assert torch.equal(found[index]["embedding"], released)
                if (index, number) != (3, 1):  # this one's block gets lost
                    shape = released.shape
                    gradients[index] = torch.randn(shape, generator=stream) / 19
            shares = {p: 10.0 * p for p in gradients}
            together.learn(gradients, 1.3, shares)
            for p, gradient in gradients.items():
                lone[p].learn(gradient, 1.3, shares[p])
        for one, other in zip(alone, group, strict=True):
            assert one.settle() == other.settle()
            for name, value in one.state().items():
                assert torch.equal(value, other.state()[name]), (one.index, name)


def test_a_party_that_forgot_its_output_learns_the_same():
    kept, forgetful = party(2, 6), party(2, 6)
    ids = torch.arange(20)
    gradient = torch.randn(20, 6)
    lone = [LoneParty(one) for one in (kept, forgetful)]
    for one in lone:
        one.embed(1, 0, ids)
    forgetful.load_state({name: value.clone() for name, value in forgetful.state().items()})
    for one in lone:
        one.learn(gradient, 1.0, 5.0)
        one.learn(gradient, 1.0, 5.0)  # no batch is open: nothing happens
    for name, value in kept.state().items():
        assert torch.equal(value, forgetful.state()[name]), name


def test_learning_follows_the_gradient_through_the_clipping():
    one = party(1, 6)
    lone = LoneParty(one)
    ids = torch.arange(20)
    gradient = torch.randn(20, 6)
    lone.embed(1, 0, ids)
    raw = one.bottom(one.view.x_train[ids])
    assert (raw.norm(dim=1) > PRIVACY.clip).any()
    assert (raw.norm(dim=1) < PRIVACY.clip).any()
    expected = torch.autograd.grad(clip_rows(raw, PRIVACY.clip), one.parameters, gradient)
    lone.learn(gradient, 1.0, 5.0)
    for parameter, wanted in zip(one.parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-5, atol=1e-6)


def test_noise_has_the_size_it_should_and_is_new_every_round():
    one = party(1, 32)
    first, second = one.noise_of_round(1), one.noise_of_round(2)
    assert first.std().item() == pytest.approx(one.sigma, rel=0.05)
    correlation = (first * second).mean() / one.sigma**2
    assert abs(correlation) < 4.0 / math.sqrt(first.numel())
    rows = torch.arange(10)
    released = LoneParty(one).embed(1, 0, rows)["embedding"]
    clean = clip_rows(one.bottom(one.view.x_train[rows]), PRIVACY.clip)
    torch.testing.assert_close(released - clean, first[rows], rtol=1e-4, atol=1e-5)


def test_broken_blocks_are_told_from_large_ones():
    block = torch.full((4, 3), 3e38)  # finite, though its sum is not
    assert fault_of(block, 4, 3) is None
    for value in (math.nan, math.inf, -math.inf):
        block = torch.zeros(4, 3)
        block[2, 1] = value
        assert "NaN" in fault_of(block, 4, 3)
    assert "shape" in fault_of(torch.zeros(3, 3), 4, 3)
    assert "float32" in fault_of(torch.zeros(4, 3).double(), 4, 3)
