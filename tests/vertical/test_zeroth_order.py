"""VFL-CZOFO: one number goes back to each party, the change of the loss by its perturbation."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.nn import functional

from fedguard.errors import ConfigurationError
from fedguard.vertical.data import PartyView
from fedguard.vertical.exchange import FusedExchange
from fedguard.vertical.label_holder import LabelHolder
from fedguard.vertical.models import make_bottom, make_top
from fedguard.vertical.parties import Party
from fedguard.vertical.schedule import BatchSchedule
from fedguard.vertical.terms import Optimiser
from fedguard.vertical.zeroth_order import VflCzofo

ROWS, PARTIES, WIDTH = 60, 3, 4


def bound(mu=0.05, lr=0.1):
    strategy = VflCzofo(mu=mu, embedding=WIDTH)
    y = torch.arange(ROWS) % 3
    holder = LabelHolder(y, y, 3, make_top(PARTIES, WIDTH, 3, "modern", False, 0), Optimiser(lr))
    strategy.bind(holder, BatchSchedule(ROWS, 20, 0), PARTIES)
    return strategy


def blocks(parties=(0, 1, 2)):
    stream = torch.Generator().manual_seed(2)
    drawn = torch.randn(PARTIES, 2, 20, WIDTH, generator=stream)
    return {p: {"embedding": drawn[p, 0], "perturbed": drawn[p, 1]} for p in parties}


@pytest.mark.parametrize("parties", [(0, 1, 2), (0, 2)])
def test_differences_are_those_of_the_loss_before_the_step(parties):
    strategy, ids = bound(), torch.arange(20, 40)
    top, y = copy.deepcopy(strategy._holder.top), strategy._holder.y_train[ids]
    released = blocks(parties)

    def loss(names):
        zeros = torch.zeros(20, WIDTH)
        full = [released[p][names[p]] if p in released else zeros for p in range(PARTIES)]
        return float(functional.cross_entropy(top(torch.stack(full, dim=1)), y).detach())

    plain = dict.fromkeys(range(PARTIES), "embedding")
    step, found = strategy.step(released, ids)
    assert step.loss == pytest.approx(loss(plain), rel=1e-5)
    assert set(found) == set(parties)
    for party, difference in found.items():
        assert difference.shape == (1,)
        expected = loss({**plain, party: "perturbed"}) - loss(plain)
        assert float(difference) == pytest.approx(expected, abs=1e-6)


def test_a_loss_that_overflows_tells_nobody_anything():
    strategy = bound()
    strategy._holder.loss_of = lambda *_: math.inf
    _, found = strategy.step(blocks(), torch.arange(20))
    assert {party: float(value) for party, value in found.items()} == dict.fromkeys(range(3), 0.0)


def test_the_top_model_learns_as_ever():
    strategy, ids = bound(), torch.arange(20)
    other = copy.deepcopy(strategy._holder)
    strategy.step(blocks(), ids)
    other.step({p: one["embedding"] for p, one in blocks().items()}, ids)
    for mine, wanted in zip(strategy._holder.top.parameters(), other.top.parameters(), strict=True):
        assert torch.equal(mine, wanted)


def test_bottom_models_alone_can_learn_from_losses():
    """With the top model held still, whatever the loss falls by the parties have done.

    A step along one of D directions is 1 / D of the gradient's on average: D is 644 here.
    """
    strategy = bound(mu=0.01, lr=0.0)
    stream = torch.Generator().manual_seed(0)
    y = strategy._holder.y_train
    parties = []
    for index in range(PARTIES):
        x = torch.randn(ROWS, 5, generator=stream) + 2.0 * functional.one_hot(y, 5)
        bottom = make_bottom((5,), WIDTH, "modern", 0, index)
        terms, view = strategy.terms(index), PartyView(x, x)
        assert (terms.zeroth_order, terms.privacy) == (0.01, None)
        parties.append(Party(index, view, bottom, terms, Optimiser(50.0), 1))
    exchange = FusedExchange(parties)
    strategy.train(exchange, 1)
    first = strategy._holder.evaluate(exchange.embed_test(range(PARTIES), 1)).loss
    for server_round in range(2, 60):
        strategy.train_round(exchange, server_round)
    last = strategy._holder.evaluate(exchange.embed_test(range(PARTIES), 60)).loss
    assert last < first - 0.1


def test_a_radius_of_nothing_is_refused():
    with pytest.raises(ConfigurationError, match="mu"):
        VflCzofo(mu=0.0)
