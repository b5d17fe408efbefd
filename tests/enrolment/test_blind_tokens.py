"""Blind tokens: good RSA-PSS signatures that their signer never saw, one per member and round."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from fedguard.enrolment import reasons
from fedguard.enrolment.blind import (
    BITS,
    SALT,
    blind,
    finish,
    make_key,
    pss_encode,
    public_bytes,
    public_key,
    sign_blinded,
    verify,
)
from fedguard.enrolment.local import KeyedBytes, LocalTokens
from fedguard.enrolment.reasons import NotAdmittedError
from fedguard.enrolment.tickets import Place, aggregator_id
from fedguard.enrolment.tokens import BLIND_TICKET, TokenHolder

SOME, OTHER = (hashlib.sha256(text).digest() for text in (b"some", b"other"))
HERE = Place(5)


@pytest.fixture(scope="module")
def key():
    return make_key()


@pytest.fixture
def parties() -> LocalTokens:
    return LocalTokens(32, 16, seed=1)


def refused(attempt) -> str:
    with pytest.raises(NotAdmittedError) as caught:
        attempt()
    return caught.value.reason


def bytes_of(name: str) -> KeyedBytes:
    return KeyedBytes(0, 0, name)


def test_the_encoding_is_that_of_an_rsa_pss_signature(key):
    """What stands under a signature of the library's own is our encoding with its salt."""
    scheme = padding.PSS(padding.MGF1(hashes.SHA384()), SALT)
    numbers = key.public_key().public_numbers()
    signature = key.sign(b"message", scheme, hashes.SHA384())
    encoded = pow(int.from_bytes(signature, "big"), numbers.e, numbers.n).to_bytes(256, "big")
    told = encoded[256 - 48 - 1 : -1]
    blocks = b"".join(hashlib.sha384(told + i.to_bytes(4, "big")).digest() for i in range(5))
    salt = bytes(a ^ b for a, b in zip(encoded[:207], blocks, strict=False))[-SALT:]
    assert pss_encode(b"message", salt, BITS - 1) == encoded


def test_a_blind_signature_is_a_plain_one_in_the_end(key):
    blinded = blind(key.public_key(), b"message", bytes_of("member"))
    answer = sign_blinded(key, blinded.request, bytes_of("signer"))
    signature = finish(key.public_key(), blinded, answer)
    scheme = padding.PSS(padding.MGF1(hashes.SHA384()), SALT)
    key.public_key().verify(signature, blinded.message, scheme, hashes.SHA384())
    assert blinded.message.endswith(b"message")
    assert not verify(key.public_key(), blinded.message + b"!", signature)
    # The signer's own blinding changes nothing, and neither value shows in the other.
    assert sign_blinded(key, blinded.request, bytes_of("another")) == answer
    assert answer != signature


def test_requests_for_one_message_differ_and_none_fits_another(key):
    one, two = (blind(key.public_key(), b"m", bytes_of(name)) for name in ("a", "b"))
    assert one.request != two.request
    assert one.message != two.message
    answer = sign_blinded(key, two.request, bytes_of("signer"))
    assert refused(lambda: finish(key.public_key(), one, answer)) == reasons.FORGED_TOKEN


@pytest.mark.parametrize("request_", [b"", bytes(256), b"\xff" * 256, bytes(255) + b"\x01\x02"])
def test_what_is_no_number_below_the_modulus_is_not_signed(key, request_):
    assert refused(lambda: sign_blinded(key, request_, bytes_of("s"))) == reasons.MALFORMED


def test_a_public_key_travels_as_its_modulus(key):
    raw = public_bytes(key.public_key())
    assert public_key(raw).public_numbers() == key.public_key().public_numbers()
    for spoilt in (b"", raw[1:], bytes(256), raw[:-1] + b"\x02"):
        assert refused(lambda spoilt=spoilt: public_key(spoilt)) == reasons.MALFORMED


def test_everybody_is_admitted_once_a_round_under_a_new_handle(parties):
    handles = set()
    for number in (1, 2):
        place = Place(number)
        for member in (0, 1, 31):
            ticket = parties.ticket(member, place, SOME)
            assert len(ticket) == BLIND_TICKET
            handles.add(parties.receive(place, ticket, SOME))
            again = parties.ticket(member, place, SOME)
            assert refused(lambda a=again, p=place: parties.receive(p, a, SOME)) == reasons.REPEATED
            second = parties.ticket(member, place, OTHER)
            told = refused(lambda s=second, p=place: parties.receive(p, s, OTHER))
            assert told == reasons.SECOND
    assert len(handles) == 6


def test_every_misdeed_has_a_reason_of_its_own(parties):
    old = parties.ticket(3, Place(4), SOME)
    good = parties.ticket(3, HERE, SOME)
    stolen = parties.ticket(4, HERE, SOME)
    holder = parties.holders[3]
    elsewhere = holder.ticket(aggregator_id("other"), HERE, SOME)

    def spoilt(at: int) -> bytes:
        return good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]

    told = {
        "old": refused(lambda: parties.receive(HERE, old, SOME)),
        "elsewhere": refused(lambda: parties.receive(HERE, elsewhere, SOME)),
        "changed": refused(lambda: parties.receive(HERE, good, OTHER)),
        "signature": refused(lambda: parties.receive(HERE, spoilt(BLIND_TICKET - 1), SOME)),
        "token": refused(lambda: parties.receive(HERE, spoilt(100), SOME)),
        "prefix": refused(lambda: parties.receive(HERE, spoilt(65), SOME)),
        "owner": refused(lambda: parties.receive(HERE, stolen[:100] + good[100:], SOME)),
        "nothing": refused(lambda: parties.receive(HERE, b"", SOME)),
        "rubbish": refused(
            lambda: parties.receive(HERE, b"B1" + bytes(BLIND_TICKET - 2), bytes(32))
        ),
    }
    assert told == {
        "old": reasons.OTHER_ROUND,
        "elsewhere": reasons.OTHER_AGGREGATOR,
        "changed": reasons.CHANGED,
        "signature": reasons.FORGED_SIGNATURE,
        "token": reasons.FORGED_TOKEN,
        "prefix": reasons.FORGED_TOKEN,
        "owner": reasons.FORGED_SIGNATURE,
        "nothing": reasons.MALFORMED,
        "rubbish": reasons.FORGED_SIGNATURE,
    }
    assert parties.receive(HERE, good, SOME)


def test_a_lost_answer_is_asked_for_again_and_a_second_token_is_not_given(parties):
    key = parties.issuer.open(5)
    parties.place = HERE
    holder = parties.holders[3]
    raw, request = holder.request(5, key)
    first = parties.issuer.issue(5, raw, request)
    raw, again = holder.request(5, key)  # a fresh ticket for the same token
    assert again == request
    assert parties.issuer.issue(5, raw, again) == first
    holder.take(key, first)
    other = TokenHolder(parties.members[3], bytes_of("second"))
    raw, request = other.request(5, key)
    assert refused(lambda: parties.issuer.issue(5, raw, request)) == reasons.ISSUED


def test_nobody_but_members_gets_a_token_and_nobody_opens_rounds_but_the_aggregator(parties):
    key = parties.issuer.open(5)
    parties.place = HERE
    raw, request = parties.holders[3].request(5, key)
    issue = parties.issuer.issue
    assert refused(lambda: issue(10**9, raw, request)) == reasons.CLOSED_ROUND
    assert refused(lambda: issue(5, raw[:-1] + bytes([raw[-1] ^ 1]), request)) == reasons.FORGED
    assert refused(lambda: issue(5, raw, request[:-1] + b"\x00")) == reasons.CHANGED
    parties.registrar.revoke(4, "test")
    raw, request = parties.holders[4].request(5, key)
    assert refused(lambda: issue(5, raw, request)) == reasons.REVOKED
    assert parties.ticket(4, HERE, SOME) == b""


def test_keys_of_past_rounds_are_forgotten(parties):
    keys = [public_bytes(parties.issuer.open(number)) for number in (1, 2, 3)]
    assert len(set(keys)) == 3
    assert refused(lambda: parties.issuer.open(1)) == reasons.CLOSED_ROUND
    assert public_bytes(parties.issuer.open(2)) == keys[1]
    assert parties.ticket(3, Place(1), SOME) == b""


def test_what_the_issuer_holds_names_no_token(parties):
    """Neither request nor answer occurs in a ticket, and its one-time key in neither."""
    tickets = {member: parties.ticket(member, HERE, SOME) for member in range(8)}
    for request, answer in parties.issuer._issued[5].values():
        for ticket in tickets.values():
            assert request not in ticket
            assert answer not in ticket
            assert ticket[28:60] not in request + answer
