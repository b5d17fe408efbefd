from __future__ import annotations

import numpy as np
import pytest

from fedguard.encryption.errors import ProtocolError, RefusedError
from fedguard.encryption.lattice.profiles import profile
from fedguard.encryption.lattice.sampling import SystemRandom
from fedguard.encryption.protocol.identity import Channel, Identity, Roster
from fedguard.encryption.protocol.transcript import SumTag, commitment, digest, round_secret

RING = profile("default").data_ring
SOURCE = SystemRandom()


def polynomials(count: int, seed: bytes) -> np.ndarray:
    return RING.uniform(seed, count)


def test_tags_add_up_for_the_sum_and_only_for_it():
    secret = b"k" * 32
    parts = {party: polynomials(70, bytes([party])) for party in (1, 2, 3)}
    check = SumTag(RING, secret)
    tags = {party: check.tag(c1, party) for party, c1 in parts.items()}
    total = RING.add(RING.add(parts[1], parts[2]), parts[3])
    tag = SumTag.add_tags(RING, tags.values())
    assert check.holds(total, tag, [1, 2, 3])
    assert not check.holds(total, tag, [1, 2])
    assert not check.holds(total, tag, [1, 2, 3, 3])
    assert not check.holds(parts[1], tag, [1, 2, 3])
    assert not check.holds(parts[1], tags[1], [1, 2, 3])
    assert check.holds(parts[1], tags[1], [1])
    assert not SumTag(RING, b"other" * 7).holds(total, tag, [1, 2, 3])
    moved = total.copy()
    moved[1, 69, 4095] ^= np.uint64(1)
    assert not check.holds(moved, tag, [1, 2, 3])


def test_tags_hide_the_inner_product():
    """Equal ciphertexts under two parties' offsets give unrelated tags."""
    check, c1 = SumTag(RING, b"k" * 32), polynomials(1, b"same")
    first, second = check.tag(c1, 1), check.tag(c1, 2)
    words = zip(np.frombuffer(first, "<u8"), np.frombuffer(second, "<u8"), strict=True)
    assert all(a != b for a, b in words)


def test_a_tag_of_another_length_is_refused():
    with pytest.raises(ProtocolError, match="a tag has 3 bytes"):
        SumTag.add_tags(RING, [b"abc"])


def test_views_and_seeds_decide_the_common_secret():
    seeds = [b"a" * 32, b"b" * 32]
    base = round_secret(b"view", (1, 2), b"model", seeds)
    assert round_secret(b"view", (1, 2), b"model", list(seeds)) == base
    others = [
        (b"veiw", (1, 2), b"model", seeds),
        (b"view", (1, 3), b"model", seeds),
        (b"view", (1, 2), b"modle", seeds),
        (b"view", (1, 2), b"model", seeds[::-1]),
    ]
    assert base not in [round_secret(*other) for other in others]


def test_commitments_bind_party_round_key_and_nonce():
    base = commitment(b"c", 1, b"key", b"n")
    others = [(b"d", 1, b"key", b"n"), (b"c", 2, b"key", b"n"), (b"c", 1, b"kez", b"n"),
              (b"c", 1, b"key", b"m"), (b"c", 1, b"ke", b"yn")]  # fmt: skip
    assert base not in [commitment(*other) for other in others]
    assert digest("a", b"bc") != digest("ab", b"c")


def test_sealed_messages_open_for_their_reader_alone():
    alice, bob, eve = (Channel(SOURCE.bytes(32)) for _ in range(3))
    box = alice.seal(bob.public, 1, 2, b"round", b"text", b"n" * 12)
    assert bob.open(alice.public, 1, 2, b"round", box) == b"text"
    attempts = [
        (eve, alice.public, 1, 2, b"round", box),
        (bob, eve.public, 1, 2, b"round", box),
        (bob, alice.public, 2, 1, b"round", box),
        (bob, alice.public, 1, 2, b"other", box),
        (bob, alice.public, 1, 2, b"round", box[:-1] + bytes([box[-1] ^ 1])),
    ]
    for reader, *arguments in attempts:
        with pytest.raises(RefusedError, match="does not open"):
            reader.open(*arguments)


def test_a_degenerate_channel_key_is_refused():
    with pytest.raises(RefusedError, match="client 2: a channel key is unusable") as caught:
        Channel(SOURCE.bytes(32)).seal(bytes(32), 1, 2, b"", b"text", bytes(12))
    assert caught.value.accused == 2


def test_signatures_are_of_the_listed_client():
    ada, ben = Identity.generate(SOURCE), Identity.generate(SOURCE)
    roster = Roster({1: ada.public, 2: ben.public, 3: b"short"})
    roster.verify(1, b"statement", ada.sign(b"statement"))
    for party, statement in ((2, b"statement"), (1, b"another"), (3, b"statement")):
        with pytest.raises(RefusedError, match="is wrong"):
            roster.verify(party, statement, ada.sign(b"statement"))
    with pytest.raises(RefusedError, match="roster"):
        roster.verify(4, b"statement", ada.sign(b"statement"))
    assert Identity(ada.secret).public == ada.public
