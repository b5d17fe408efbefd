"""Every byte of a ticket, an answer, a receipt and a token counts, and is where it should be."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import fields, replace

import pytest

from fedguard.enrolment import reasons
from fedguard.enrolment.aggregator import Aggregator
from fedguard.enrolment.local import LocalLabels, LocalTokens
from fedguard.enrolment.reasons import NotAdmittedError
from fedguard.enrolment.registrar import Registrar
from fedguard.enrolment.tickets import (
    RECEIPT,
    TICKET,
    Answer,
    Place,
    Receipt,
    Ticket,
    aggregator_id,
)
from fedguard.enrolment.tokens import BLIND_TICKET

SOME, OTHER = (hashlib.sha256(text).digest() for text in (b"some", b"other"))
HERE = Place(5)
KEY = bytes(range(32))


@pytest.fixture
def parties() -> LocalLabels:
    return LocalLabels(32, 16, seed=2)


@pytest.fixture
def tokens() -> LocalTokens:
    return LocalTokens(4, 2, seed=2)


def refused(attempt) -> str:
    with pytest.raises(NotAdmittedError) as caught:
        attempt()
    return caught.value.reason


def framed(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def sha(key: bytes, *parts: bytes) -> bytes:
    return hmac.new(key, framed(*parts), hashlib.sha256).digest()


def resigned(parties: LocalLabels, member: int, **changed: object) -> bytes:
    """A ticket with some fields changed, whose tag the member itself has made anew."""
    ticket = replace(Ticket.from_bytes(parties.ticket(member, HERE, SOME)), **changed)
    key = parties.members[member].credential.key
    return replace(ticket, tag=ticket.tag_under(key)).to_bytes()


def test_a_ticket_written_by_hand_is_the_members_own(parties):
    raw = parties.ticket(3, Place(5, 2), SOME)
    credential = parties.members[3].credential
    place = (5).to_bytes(8, "big") + (2).to_bytes(2, "big")
    name = hashlib.sha256(b"aggregator\0fedguard").digest()[:16]
    assert raw[:28] == b"K1" + name + place
    slots = [(5).to_bytes(8, "big") + slot.to_bytes(2, "big") for slot in range(4)]
    assert raw[28:44] in [sha(credential.seed, b"label", slot)[:16] for slot in slots]
    assert raw[60:92] == SOME
    assert raw[92:] == sha(credential.key, b"access", raw[28:44], raw[44:60], name, place, SOME)


def test_a_handle_by_hand_is_the_registrars():
    registrar = Registrar(
        [], {7: KEY}, slots=1, secret=KEY, clock=int, random=bytes, aggregators={}
    )
    name, told = aggregator_id("a"), [n.to_bytes(8, "big") for n in (7, 9)]
    assert registrar.handle(name, 7, 9) == sha(KEY, b"handle", name, *told)[:16]
    assert registrar.handle(name, 9, 7) != registrar.handle(name, 7, 9)


@pytest.mark.parametrize("length", [0, 1, 2, 60, TICKET - 1, TICKET + 1, 2 * TICKET])
def test_a_ticket_that_is_cut_or_longer_is_none(parties, length):
    raw = (2 * parties.ticket(3, HERE, SOME))[:length]
    assert refused(lambda: Ticket.from_bytes(raw)) == reasons.MALFORMED
    assert refused(lambda: parties.registrar.access(parties.name, HERE, raw)) == reasons.MALFORMED


@pytest.mark.parametrize("version", [b"K0", b"K2", b"k1", b"1K", b"B1", bytes(2)])
def test_a_ticket_of_another_version_is_none(parties, version):
    raw = version + parties.ticket(3, HERE, SOME)[2:]
    assert refused(lambda: parties.receive(HERE, raw, SOME)) == reasons.MALFORMED


def test_each_field_that_its_own_member_signs_wrong_has_a_reason_of_its_own(parties):
    near, far = parties.registrar.groups
    one, stranger = near.members[0], far.members[0]
    foreign = Ticket.from_bytes(parties.ticket(stranger, HERE, SOME)).label
    told = {
        name: refused(lambda c=changed: parties.receive(HERE, resigned(parties, one, **c), SOME))
        for name, changed in {
            "aggregator": {"aggregator": aggregator_id("other")},
            "round": {"place": Place(4)},
            "exchange": {"place": Place(5, 1)},
            "strange label": {"label": bytes(16)},
            "another group's label": {"label": foreign},
            "digest": {"digest": OTHER},
        }.items()
    }
    assert told == {
        "aggregator": reasons.OTHER_AGGREGATOR,
        "round": reasons.OTHER_ROUND,
        "exchange": reasons.OTHER_ROUND,
        "strange label": reasons.UNKNOWN_LABEL,
        "another group's label": reasons.FORGED,
        "digest": reasons.CHANGED,
    }
    # None of them used the member's turn up, and a nonce of its own choice is its own affair.
    assert parties.receive(HERE, resigned(parties, one, nonce=bytes(16)), SOME)


def test_a_nonce_is_used_once_in_a_round_whoever_sends_it(parties):
    access, nonce = parties.registrar.access, bytes(range(16))
    assert access(parties.name, HERE, resigned(parties, 0, nonce=nonce))
    for member in (0, 1):
        again = resigned(parties, member, nonce=nonce)
        assert refused(lambda t=again: access(parties.name, HERE, t)) == reasons.REPLAYED
    following = resigned(parties, 0, nonce=nonce, place=Place(6))
    assert access(parties.name, Place(6), following)


def test_a_revoked_member_hears_that_before_all_that_is_wrong_with_its_ticket(parties):
    raw = resigned(parties, 3, aggregator=aggregator_id("other"), place=Place(1))
    parties.registrar.revoke(3, "test")
    assert refused(lambda: parties.registrar.access(parties.name, HERE, raw)) == reasons.REVOKED


def test_an_aggregator_cannot_use_anothers_tickets(parties):
    other = aggregator_id("other")
    raw = parties.ticket(3, HERE, SOME)
    access = parties.registrar.access
    assert refused(lambda: access(other, HERE, raw)) == reasons.OTHER_AGGREGATOR
    parties.registrar.aggregators[other] = KEY
    assert refused(lambda: access(other, HERE, raw)) == reasons.OTHER_AGGREGATOR
    mine, theirs = access(parties.name, HERE, raw), resigned(parties, 3, aggregator=other)
    assert access(other, HERE, theirs).handle != mine.handle


def test_an_answer_that_is_not_word_for_word_the_registrars_admits_nobody(parties):
    parties.place = HERE
    access = parties.registrar.access
    first = access(parties.name, HERE, parties.ticket(3, HERE, SOME))
    raw = parties.ticket(3, HERE, SOME)
    good = access(parties.name, HERE, raw)
    assert len(good.to_bytes()) == 128
    assert Answer.from_bytes(good.to_bytes()) == good
    spoilt = [
        replace(
            good, **{f.name: bytes([getattr(good, f.name)[0] ^ 128]) + getattr(good, f.name)[1:]}
        )
        for f in fields(Answer)
    ]
    elsewhere = replace(good, seal=good.seal_under(parties.seal, Place(5, 1), raw))
    strange = replace(good, seal=good.seal_under(KEY, HERE, raw))
    for answer in (*spoilt, first, elsewhere, strange):
        door = Aggregator(parties.name, parties.seal, lambda *_, a=answer: a)
        door.open(HERE)
        assert refused(lambda d=door: d.receive(HERE, raw, SOME)) == reasons.FORGED_HANDLE
        assert door.admissions.handles == ()
    door = Aggregator(parties.name, parties.seal, lambda *_: good)
    door.open(HERE)
    assert door.receive(HERE, raw, SOME)[0] == good.handle


def test_a_receipt_for_another_place_update_or_session_is_not_accepted(parties):
    parties.place, member = HERE, parties.members[3]
    receipts = {}
    blank = Receipt(bytes(16), bytes(32), bytes(32))
    assert not member.accepts(blank)  # nothing was sent
    for place, digest in ((HERE, SOME), (Place(5, 1), SOME), (Place(5, 2), OTHER)):
        parties.aggregator.open(place)
        raw = parties.ticket(3, place, digest)
        _, receipt = parties.aggregator.receive(place, raw, digest)
        receipts[place] = receipt
        assert len(receipt.to_bytes()) == RECEIPT == 80
        accepted = {each for each, of in receipts.items() if member.accepts(of)}
        assert accepted == {place}
    old, new = receipts[HERE], receipts[Place(5, 2)]
    for name in ("nonce", "confirmation", "proof"):
        assert not member.accepts(replace(new, **{name: getattr(old, name)}))


def test_a_token_is_spent_once_an_exchange_and_never_in_another_round(tokens):
    holder, name = tokens.holders[1], tokens.name
    for place in (Place(1), Place(1, 1)):
        first = tokens.receive(place, tokens.ticket(1, place, SOME), SOME)
        assert first == tokens.aggregator.admissions.handles[0]
        again, second = (holder.ticket(name, place, each) for each in (SOME, OTHER))
        assert refused(lambda p=place, t=again: tokens.receive(p, t, SOME)) == reasons.REPEATED
        assert refused(lambda p=place, t=second: tokens.receive(p, t, OTHER)) == reasons.SECOND
    tokens.issuer.open(2)
    assert refused(lambda: holder.ticket(name, Place(2), SOME)) == reasons.CLOSED_ROUND
    holder.token = replace(holder.token, server_round=2)  # it says so, but was signed for round 1
    raw = holder.ticket(name, Place(2), SOME)
    assert refused(lambda: tokens.receive(Place(2), raw, SOME)) == reasons.FORGED_TOKEN


def test_one_flipped_bit_anywhere_in_a_ticket_with_a_token_is_never_admitted(tokens):
    place = Place(3)
    raw = tokens.ticket(2, place, SOME)
    told = [
        refused(
            lambda at=at: tokens.receive(
                place, raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :], SOME
            )
        )
        for at in range(BLIND_TICKET)
    ]
    assert set(told[:2]) == {reasons.MALFORMED}
    assert set(told[2:60]) == {reasons.FORGED_SIGNATURE}  # aggregator, place, one-time key
    assert set(told[60:348]) == {reasons.FORGED_TOKEN}  # prefix and the registrar's signature
    assert set(told[348:380]) == {reasons.CHANGED}
    assert set(told[380:]) == {reasons.FORGED_SIGNATURE}
    for wrong in (raw[:-1], raw + b"\0", b"K1" + raw[2:], raw[:TICKET]):
        assert refused(lambda w=wrong: tokens.receive(place, w, SOME)) == reasons.MALFORMED
    assert tokens.receive(place, raw, SOME) == hashlib.sha256(b"handle" + raw[28:60]).digest()[:16]


def test_an_answer_to_another_request_makes_no_token(tokens):
    key = tokens.issuer.open(4)
    tokens.place = Place(4)
    mine, theirs = tokens.holders[0], tokens.holders[3]
    assert refused(lambda: theirs.take(key, bytes(256))) == reasons.MALFORMED  # nothing was asked
    answers = [tokens.issuer.issue(4, *each.request(4, key)) for each in (mine, theirs)]
    for wrong in (answers[1], answers[0][:-1], answers[0] + b"\0", bytes(256)):
        assert refused(lambda w=wrong: mine.take(key, w)) == reasons.FORGED_TOKEN
    assert not mine.has(4)
    mine.take(key, answers[0])
    assert mine.has(4)
