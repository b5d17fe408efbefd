"""What the label holder takes from parties, and what it sets aside."""

from __future__ import annotations

import math

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

from fedguard.grids.base import LocalGrid
from fedguard.vertical import messages
from fedguard.vertical.data import PartyView
from fedguard.vertical.exchange import (
    FusedExchange,
    MessageExchange,
    contribution_of,
    fault_of,
    usable,
)
from fedguard.vertical.models import make_bottom
from fedguard.vertical.parties import Party
from fedguard.vertical.terms import Claim, Optimiser, PartyTerms

ROWS, WIDTH = 6, 3
GOOD = torch.arange(18.0).view(ROWS, WIDTH)


def broken(value):
    block = GOOD.clone()
    block[4, 2] = value
    return block


HOSTILE = {
    "not a number": (broken(math.nan), "NaN"),
    "infinite": (broken(-math.inf), "NaN"),
    "one row short": (GOOD[:-1], "expected (6, 3)"),
    "turned round": (GOOD.T, "expected (6, 3)"),
    "flat": (GOOD.flatten(), "expected (6, 3)"),
    "one more dimension": (GOOD[None], "expected (6, 3)"),
    "whole numbers": (GOOD.long(), "expected float32"),
    "double precision": (GOOD.double(), "expected float32"),
    "half precision": (GOOD.half(), "expected float32"),
    "nothing": (None, "without an embedding"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_block_that_cannot_be_used_is_named(name):
    block, word = HOSTILE[name]
    assert word in fault_of(block, ROWS, WIDTH)
    assert fault_of(GOOD, ROWS, WIDTH) is None


@pytest.mark.parametrize("name", HOSTILE)
def test_every_block_a_strategy_needs_must_be_sound(name):
    block, word = HOSTILE[name]
    second = {} if block is None else {"perturbed": block}
    released = {0: {"embedding": GOOD}, 2: {"embedding": GOOD, **second}}
    good, faults = usable(released, ROWS, WIDTH, ("embedding",))
    assert set(good) == {0, 2}
    assert faults == {}
    good, faults = usable(released, ROWS, WIDTH, ("embedding", "perturbed"))
    assert good == {}
    assert word in faults[2]
    assert "without" in faults[0]


def test_finite_numbers_whose_sum_overflows_are_fine():
    large = torch.full((ROWS, WIDTH), 3e38)
    assert not math.isfinite(float(large.sum()))
    assert fault_of(large, ROWS, WIDTH) is None


# --- messages -----------------------------------------------------------------------------------


class Scripted(LocalGrid):
    """A grid whose replies are written by the test."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.asked = answer, []

    def get_node_ids(self):
        return range(4)

    def send_and_receive(self, questions, *, timeout=None):
        self.asked = list(questions)
        return [reply for question in self.asked for reply in self.answer(question)]


def reply(question, tensors=None, **facts):
    return Message(messages.content(tensors, **facts), reply_to=question)


def embed(answer):
    exchange = MessageExchange(Scripted(answer))
    found = exchange.embed([0, 1, 2], 5, 7, torch.tensor([4, 2]))
    return found, exchange.missing, exchange.grid.asked


def test_questions_say_round_batch_and_rows():
    found, missing, asked = embed(lambda q: [reply(q, {"embedding": GOOD})])
    assert missing == {}
    assert all(torch.equal(one["embedding"], GOOD) for one in found.values())
    assert [q.metadata.dst_node_id for q in asked] == [0, 1, 2]
    for question in asked:
        assert question.metadata.message_type == "train.embed"
        assert dict(messages.facts_of(question)) == {"server-round": 5, "batch": 7}
        assert messages.tensors_of(question)["ids"].tolist() == [4, 2]


def test_replies_are_told_apart_by_their_sender():
    """Nobody can answer for another, not answer twice, and strangers are not heard."""

    def answer(question):
        party = question.metadata.dst_node_id
        stranger = Message(messages.content(), dst_node_id=9, message_type="train.embed")
        return [
            reply(question, {"embedding": torch.full((2, 1), float(party))}),
            reply(question, {"embedding": torch.full((2, 1), -1.0)}),
            reply(stranger, {"embedding": torch.full((2, 1), 9.0)}),
        ]

    found, missing, _ = embed(answer)
    assert missing == {}
    assert {p: float(one["embedding"][0]) for p, one in found.items()} == {0: 0.0, 1: 1.0, 2: 2.0}


def test_what_is_late_broken_or_unreadable_is_missing_with_the_reason():
    def answer(question):
        party = question.metadata.dst_node_id
        if party == 0:
            return []
        if party == 1:
            return [Message(Error(0, "x" * 5000), reply_to=question)]
        nonsense = Array("float32", (2, 2), "numpy.ndarray", b"no array at all")
        record = RecordDict({messages.TENSORS: ArrayRecord({"embedding": nonsense})})
        return [Message(record, reply_to=question)]

    found, missing, _ = embed(answer)
    assert found == {}
    assert missing[0] == "no reply"
    assert missing[1].startswith("error reply: xxx")
    assert len(missing[1]) == 200
    assert missing[2].startswith("unreadable reply")


def test_a_reply_without_our_record_is_unreadable():
    def answer(question):
        return [Message(RecordDict({"other": ConfigRecord({"a": 1})}), reply_to=question)]

    found, missing, _ = embed(answer)
    assert found == {}
    assert set(missing) == {0, 1, 2}


CLAIMS = [
    ({"epsilon": math.nan, "cost-ratio": 1.0}, None),
    ({"epsilon": 0.0, "cost-ratio": 1.0}, None),
    ({"epsilon": -2.0, "cost-ratio": 1.0}, None),
    ({"epsilon": 3.0, "cost-ratio": math.nan}, None),
    ({"epsilon": 3.0, "cost-ratio": math.inf}, None),
    ({"epsilon": 3.0, "cost-ratio": 0.0}, None),
    ({"epsilon": 3.0, "cost-ratio": -1.0}, None),
    ({"epsilon": 3.0, "cost-ratio": 2}, Claim(3.0, 2.0)),
    ({"epsilon": math.inf, "cost-ratio": 1.0}, Claim(math.inf, 1.0)),
    ({"epsilon": "3.0", "cost-ratio": 1.0}, None),
    ({"epsilon": True, "cost-ratio": 1.0}, None),
    ({"epsilon": 3.0}, None),
    ({"epsilon": [1.0, 2.0], "cost-ratio": 1.0}, None),
]


@pytest.mark.parametrize(("facts", "claim"), CLAIMS)
def test_claims_are_two_numbers_or_nothing(facts, claim):
    exchange = MessageExchange(Scripted(lambda q: [reply(q, None, **facts)]))
    found = exchange.settle([1], {1: 40})
    assert found == ({} if claim is None else {1: claim})
    assert ("claim" in exchange.missing.get(1, "")) == (claim is None)
    (question,) = exchange.grid.asked
    assert dict(messages.facts_of(question)) == {"tokens": 40}


def test_each_party_hears_of_its_own_gradient_and_contribution_alone():
    exchange = MessageExchange(Scripted(lambda q: [reply(q)]))
    gradients = {p: torch.full((2, 2), float(p)) for p in (0, 2)}
    exchange.learn(gradients, 0.7, [10.0, 11.0, 12.0])
    for question, party in zip(exchange.grid.asked, (0, 2), strict=True):
        facts = messages.facts_of(question)
        assert question.metadata.dst_node_id == party
        assert (facts["loss"], facts["contribution"]) == (0.7, 10.0 + party)
        assert set(messages.tensors_of(question)) == {"gradient"}
        assert torch.equal(messages.tensors_of(question)["gradient"], gradients[party])


def test_where_nothing_is_measured_the_contribution_is_not_a_number():
    assert math.isnan(contribution_of([], 3))
    assert contribution_of([1.0, 2.0], 1) == 2.0


def test_test_rows_without_an_embedding_are_left_out():
    def answer(question):
        name = "embedding" if question.metadata.dst_node_id else "perturbed"
        return [reply(question, {name: GOOD})]

    exchange = MessageExchange(Scripted(answer))
    assert set(exchange.embed_test([0, 1], 3, triggered=True)) == {1}
    (first, _) = exchange.grid.asked
    assert dict(messages.facts_of(first)) == {"server-round": 3, "triggered": True}


# --- in one process -----------------------------------------------------------------------------


def parties():
    made = []
    for index in range(3):
        stream = torch.Generator().manual_seed(index)
        view = PartyView(*(torch.randn(n, 5, generator=stream) for n in (20, 4)))
        bottom = make_bottom((5,), WIDTH, "modern", 0, index)
        made.append(Party(index, view, bottom, PartyTerms(WIDTH), Optimiser(0.1, 0.9), 1))
    return FusedExchange(made)


def a_batch(exchange, number):
    ids = torch.arange(number, number + 8)
    released = exchange.embed([0, 2], 1, number, ids)
    exchange.learn({p: one["embedding"].cos() for p, one in released.items()}, 1.0, [])
    return released


def test_states_are_copies_and_bring_parties_back():
    exchange = parties()
    a_batch(exchange, 0)
    states = exchange.states(range(3))
    kept = {p: {n: v.clone() for n, v in one.items()} for p, one in states.items()}
    after = a_batch(exchange, 1)
    for party, one in states.items():
        for name, value in one.items():
            assert torch.equal(value, kept[party][name]), name
    exchange.restore(states)
    again = a_batch(exchange, 1)
    for party, one in after.items():
        assert torch.equal(one["embedding"], again[party]["embedding"])


@pytest.mark.parametrize(("epsilon", "ratio"), [(math.nan, 1.0), (-1.0, 1.0), (3.0, 0.0)])
def test_the_fused_engine_hears_the_same_claims(epsilon, ratio):
    exchange = parties()
    exchange.parties[1].settle = lambda: Claim(epsilon, ratio)
    assert exchange.settle(range(3), {}) == dict.fromkeys((0, 2), Claim(math.inf, 1.0))
    assert "claim" in exchange.missing[1]
    a_batch(exchange, 0)
    assert exchange.missing == {}  # a new question, a new answer


def test_a_state_without_momentum_takes_the_momentum_away():
    exchange = parties()
    fresh = exchange.states(range(3))
    first = (a_batch(exchange, 0), a_batch(exchange, 1), exchange.states([0])[0])
    exchange.restore(fresh)
    again = (a_batch(exchange, 0), a_batch(exchange, 1), exchange.states([0])[0])
    assert torch.equal(first[1][2]["embedding"], again[1][2]["embedding"])
    assert all(torch.equal(value, again[2][name]) for name, value in first[2].items())


def test_a_party_that_is_not_asked_does_not_move():
    exchange = parties()
    before = exchange.states([1])[1]
    a_batch(exchange, 0)
    for name, value in exchange.states([1])[1].items():
        assert torch.equal(value, before[name]), name
