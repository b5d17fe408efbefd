"""Registrar, aggregator and member agree on members and refuse everything else, each by name."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedguard.enrolment import reasons
from fedguard.enrolment.groups import LabelTable, form_groups
from fedguard.enrolment.local import SLOTS, KeyedBytes, LocalLabels
from fedguard.enrolment.reasons import NotAdmittedError
from fedguard.enrolment.registrar import ATTEMPTS
from fedguard.enrolment.tickets import (
    TICKET,
    Answer,
    Place,
    Receipt,
    Ticket,
    aggregator_id,
    label_of,
    mac,
    session_key,
)

SOME, OTHER = (hashlib.sha256(text).digest() for text in (b"some", b"other"))
HERE = Place(5)


@pytest.fixture
def parties() -> LocalLabels:
    return LocalLabels(64, 16, seed=1)


def refused(attempt) -> str:
    with pytest.raises(NotAdmittedError) as caught:
        attempt()
    return caught.value.reason


def test_a_member_is_admitted_under_one_handle_a_round_and_another_the_next(parties):
    handles = {}
    for number in (1, 2):
        for member in (0, 1):
            ticket = parties.ticket(member, Place(number), SOME)
            handles[member, number] = parties.receive(Place(number), ticket, SOME)
    assert len(set(handles.values())) == 4
    assert {len(handle) for handle in handles.values()} == {16}
    access = parties.registrar.access
    again = [
        access(parties.name, Place(2), parties.ticket(0, Place(2), d)).handle for d in (SOME, OTHER)
    ]
    assert set(again) == {handles[0, 2]}


def test_lasting_handles_stay_and_say_no_more_than_that():
    parties = LocalLabels(32, 16, seed=1, lasting=True)
    seen = [
        [parties.receive(Place(n), parties.ticket(m, Place(n), SOME), SOME) for m in range(4)]
        for n in (1, 2)
    ]
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 4


def test_tickets_have_one_length_and_nothing_of_them_comes_back(parties):
    raws = [parties.ticket(m, Place(n), SOME) for n in (1, 2, 3) for m in range(64)]
    assert {len(raw) for raw in raws} == {TICKET}
    found = [Ticket.from_bytes(raw) for raw in raws]
    assert [ticket.to_bytes() for ticket in found] == raws
    assert len({ticket.nonce for ticket in found}) == len({t.tag for t in found}) == len(raws)
    by_round = [{t.label for t in found if t.place.server_round == n} for n in (1, 2, 3)]
    assert len(set.union(*by_round)) == sum(len(labels) for labels in by_round)
    assert all(len(labels) <= 4 * SLOTS for labels in by_round)


def test_a_label_is_its_groups_and_all_of_its_groups(parties):
    table = LabelTable(parties.registrar.groups, SLOTS)
    for index, group in enumerate(parties.registrar.groups):
        assert len(group.members) == 16
        for member in group.members:
            label = Ticket.from_bytes(parties.ticket(member, HERE, SOME)).label
            assert table.find(label, 5) == index


def test_groups_are_filled_and_a_short_last_one_joins_the_one_before():
    groups = form_groups(range(100), 16, KeyedBytes(0, 0, "groups"))
    assert [len(group.members) for group in groups] == [16, 16, 16, 16, 16, 20]
    assert sorted(m for group in groups for m in group.members) == list(range(100))
    assert [m for group in groups for m in group.members] != list(range(100))
    assert len({group.seed for group in groups}) == 6
    assert [len(g.members) for g in form_groups(range(3), 16, KeyedBytes(0, 0, "few"))] == [3]


def test_the_search_tries_every_key_whoever_it_is(parties, monkeypatch):
    from fedguard.enrolment import registrar as module

    compared = []

    def count(one, other):
        compared.append(one == other)
        return one == other

    monkeypatch.setattr(module.hmac, "compare_digest", count)
    found = {}
    for member in parties.registrar.groups[0].members:
        compared.clear()
        found[member] = parties.registrar.search(
            Ticket.from_bytes(parties.ticket(member, HERE, SOME))
        )
        assert (len(compared), sum(compared)) == (16, 1)
    assert [f.member for f in found.values()] == list(found)
    assert sorted(f.position for f in found.values()) == list(range(1, 17))
    assert {f.tried for f in found.values()} == {16}


def test_the_key_is_found_halfway_on_average_over_2000_accesses():
    parties = LocalLabels(640, 64, seed=3)
    rng = KeyedBytes(9, 0, "who")
    places = []
    for _ in range(2000):
        member = int.from_bytes(rng(4), "big") % 640
        found = parties.registrar.search(Ticket.from_bytes(parties.ticket(member, HERE, SOME)))
        assert found.member == member
        places.append(found.position)
    assert sum(places) / 2000 == pytest.approx((64 + 1) / 2, rel=0.05)


def tampered(ticket: bytes, at: int) -> bytes:
    return ticket[:at] + bytes([ticket[at] ^ 1]) + ticket[at + 1 :]


def test_one_flipped_bit_anywhere_is_never_admitted(parties):
    ticket = parties.ticket(3, HERE, SOME)
    told = [
        refused(lambda at=at: parties.receive(HERE, tampered(ticket, at), SOME))
        for at in range(TICKET)
    ]
    assert set(told[:2]) == {reasons.MALFORMED}
    assert set(told[2:28]) == {reasons.FORGED}  # aggregator, round, exchange
    assert set(told[28:44]) == {reasons.UNKNOWN_LABEL}
    assert set(told[44:60]) == {reasons.FORGED}
    assert set(told[60:92]) == {reasons.CHANGED}
    assert set(told[92:]) == {reasons.FORGED}
    assert parties.receive(HERE, ticket, SOME)


@pytest.mark.parametrize("raw", [b"", b"K1", bytes(TICKET), bytes(1000), b"K1" + bytes(TICKET)])
def test_what_is_no_ticket_is_told_so(parties, raw):
    assert refused(lambda: parties.receive(HERE, raw, SOME)) == reasons.MALFORMED
    for kind in (Answer, Receipt):
        assert refused(lambda kind=kind: kind.from_bytes(raw)) == reasons.MALFORMED


def test_a_second_update_is_told_from_the_same_one_again(parties):
    parties.receive(HERE, parties.ticket(3, HERE, SOME), SOME)
    again = parties.ticket(3, HERE, SOME)
    assert refused(lambda: parties.receive(HERE, again, SOME)) == reasons.REPEATED
    second = parties.ticket(3, HERE, OTHER)
    assert refused(lambda: parties.receive(HERE, second, OTHER)) == reasons.SECOND
    # Another exchange of the round takes one more.
    assert parties.receive(Place(5, 1), parties.ticket(3, Place(5, 1), OTHER), OTHER)


def test_labels_are_valid_for_two_epochs_and_told_apart_from_strange_ones(parties):
    member = parties.members[3]
    told = {}
    for epoch in range(3, 8):
        member.clock = lambda epoch=epoch: epoch
        ticket = parties.ticket(3, HERE, SOME)
        try:
            parties.registrar.access(parties.name, HERE, ticket)
            told[epoch] = None
        except NotAdmittedError as error:
            told[epoch] = error.reason
    late = reasons.WRONG_EPOCH
    assert told == {3: late, 4: None, 5: None, 6: late, 7: reasons.UNKNOWN_LABEL}


def test_rounds_close_behind_an_aggregator_and_memory_with_them(parties):
    registrar = parties.registrar
    for number in (1, 2, 3, 40):
        place = Place(number)
        registrar.access(parties.name, place, parties.ticket(3, place, SOME))
    parties.place = Place(3)
    late = parties.ticket(3, Place(3), SOME)
    assert refused(lambda: registrar.access(parties.name, Place(3), late)) == reasons.CLOSED_ROUND
    assert list(registrar._open[parties.name]) == [40]
    parties.place = Place(40)
    assert refused(lambda: parties.receive(Place(39), late, SOME)) == reasons.CLOSED_ROUND


def test_one_member_cannot_fill_the_registrars_memory_nor_keep_others_out(parties):
    ask = parties.registrar.access
    for _ in range(ATTEMPTS):
        ask(parties.name, HERE, parties.ticket(3, HERE, SOME))
    one_more = parties.ticket(3, HERE, SOME)
    assert refused(lambda: ask(parties.name, HERE, one_more)) == reasons.TOO_MANY
    assert ask(parties.name, HERE, parties.ticket(4, HERE, SOME))
    assert ask(parties.name, Place(6), parties.ticket(3, Place(6), SOME))


def test_a_revoked_member_is_refused_and_its_group_searched_in_full(parties):
    registrar = parties.registrar
    assert registrar.smallest_set == 16
    registrar.revoke(3, "poisoned round 4")
    ticket = parties.ticket(3, HERE, SOME)
    assert refused(lambda: parties.receive(HERE, ticket, SOME)) == reasons.REVOKED
    assert registrar.search(Ticket.from_bytes(ticket)).tried == 16
    assert registrar.smallest_set == 15
    assert registrar.log == [{"what": "revoked", "member": 3, "why": "poisoned round 4"}]


def test_the_registrar_alone_can_trace_and_every_time_is_logged(parties):
    handle = parties.receive(HERE, parties.ticket(3, HERE, SOME), SOME)
    trace = parties.registrar.trace
    assert trace(parties.name, 5, handle, "norm of 1e9") == 3
    assert trace(parties.name, 6, handle, "wrong round") is None
    assert trace(aggregator_id("other"), 5, handle, "wrong aggregator") is None
    assert [entry["member"] for entry in parties.registrar.log] == [3, None, None]
    assert parties.registrar.log[0]["handle"] == handle.hex()
    told = [name for name in vars(parties.aggregator) if "key" in name or "member" in name]
    assert told == ["key"]  # the one that seals the registrar's answers


def test_member_and_aggregator_know_that_they_speak_with_each_other(parties):
    parties.place = HERE
    ticket = parties.ticket(3, HERE, SOME)
    parties.aggregator.open(HERE)
    _, receipt = parties.aggregator.receive(HERE, ticket, SOME)
    member = parties.members[3]
    assert member.accepts(Receipt.from_bytes(receipt.to_bytes()))
    for name in ("nonce", "confirmation", "proof"):
        spoilt = tampered(getattr(receipt, name), 0)
        assert not member.accepts(replace(receipt, **{name: spoilt}))
    assert not parties.members[4].accepts(receipt)
    parties.ticket(3, HERE, SOME)  # the next attempt's receipt is another
    assert not member.accepts(receipt)


def test_the_session_key_is_hkdf():
    key, one, other = bytes(range(32)), bytes(16), bytes([7]) * 16
    theirs = HKDF(SHA256(), 32, salt=None, info=b"fedguard enrolment session")
    assert session_key(key, one, other) == theirs.derive(key + one + other)


def test_tags_depend_on_purpose_order_and_where_parts_end():
    key = bytes(32)
    assert mac(key, b"access", b"ab", b"c") != mac(key, b"access", b"a", b"bc")
    assert mac(key, b"access", b"a", b"b") != mac(key, b"confirm", b"a", b"b")
    assert mac(key, b"access", b"a", b"b") != mac(key, b"access", b"b", b"a")
    assert mac(key, b"accessa", b"b") != mac(key, b"access", b"ab")
    assert label_of(key, 1, 2) != label_of(key, 2, 1)


def test_an_aggregator_goes_forward_only(parties):
    parties.aggregator.open(HERE)
    with pytest.raises(ValueError, match="comes before"):
        parties.aggregator.open(Place(4))
