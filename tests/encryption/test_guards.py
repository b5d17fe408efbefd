"""What a client refuses, and what the server puts up with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from lattice_worlds import World

from fedguard.encryption.errors import (
    ChecksumError,
    DisputedError,
    LostRoundError,
    ProtocolError,
    RefusedError,
)
from fedguard.encryption.lattice import multikey
from fedguard.encryption.lattice.backend import make_backend
from fedguard.encryption.lattice.sampling import SystemRandom
from fedguard.encryption.protocol.agreement import Agreement
from fedguard.encryption.protocol.guards import Guards
from fedguard.encryption.protocol.identity import Identity
from fedguard.encryption.protocol.ledger import LEDGER
from fedguard.encryption.protocol.state import RoundState
from fedguard.encryption.protocol.transcript import SumTag


def after_encryption(**options) -> World:
    world = World(**options)
    world.commit()
    world.reveal()
    world.encrypt()
    return world


@pytest.mark.parametrize("backend", ["tenseal", "numpy"])
@pytest.mark.parametrize("packing", ["coefficients", "slots"])
@pytest.mark.parametrize("profile", ["light", "default", "wide"])
def test_an_honest_round_gives_the_weighted_mean(backend, packing, profile):
    if backend == "tenseal":
        pytest.importorskip("tenseal")
    engine = make_backend(backend, SystemRandom())
    sizes, guards = [60, 100, 128, 33], Guards(smallest_profile=profile)
    world = World(
        4, 5000, backend=engine, packing=packing, profile=profile, sizes=sizes, guards=guards
    )
    found = world.run()
    tolerance = 2e-5 if packing == "coefficients" else 5e-4
    assert np.abs(found.mean - world.weighted_mean()).max() < tolerance
    assert found.num_examples == pytest.approx(321, abs=0.1)
    assert found.clipped == pytest.approx(0, abs=1e-3)
    assert not world.server.faults


def test_rounds_follow_each_other_with_fresh_keys():
    world = World()
    keys = []
    for server_round in (1, 2, 3):
        world.new_server(server_round)
        found = world.run()
        assert np.abs(found.mean - world.weighted_mean()).max() < 2e-5
        keys.append(world.server._reveals[world.parties[0]]["key"])
    assert len(set(keys)) == 3
    assert len(world.sessions[world.parties[0]].memory) <= 3


def test_seeded_rounds_repeat_and_unseeded_ones_do_not():
    seeded = [World(seeded=True) for _ in range(2)]
    for world in seeded:
        world.commit()
        world.reveal()
    first, second = (world.encrypt() for world in seeded)
    assert first == second
    unseeded = [World() for _ in range(2)]
    for world in unseeded:
        world.commit()
        world.reveal()
    first, second = (world.encrypt() for world in unseeded)
    assert all(first[p]["ciphertext"] != second[p]["ciphertext"] for p in first)


def test_secrets_are_wiped_once_they_have_been_used():
    world = World()
    world.run()
    for session in world.sessions.values():
        state = session.memory["1.0"]
        assert not any(state["secret"])
        assert not state["seeds"]
        assert not state["channel_secret"]


def test_few_participants_are_refused_at_every_stage():
    with pytest.raises(RefusedError, match="2 participants"):
        World(2).commit()
    world = World(4)
    world.commit(lost=world.parties[:2])
    with pytest.raises(RefusedError, match="2 participants"):
        world.reveal()
    world = World(4)
    world.commit()
    world.reveal(lost=world.parties[:2])
    with pytest.raises(RefusedError, match="2 participants"):
        world.encrypt()
    assert World(2, guards=Guards(minimum_participants=2)).run().mean.shape == (300,)


def test_clients_lost_before_the_joint_key_do_not_matter():
    world = World(6)
    world.commit(lost=world.parties[:1])
    world.reveal(lost=world.parties[1:2])
    world.encrypt()
    found = world.server.take_shares(*world.share())
    assert found.contributors == world.parties[2:]
    assert np.abs(found.mean - world.weighted_mean(world.parties[2:])).max() < 2e-5


def test_a_client_lost_before_upload_loses_the_attempt_and_a_new_one_works():
    world = World(5)
    world.commit()
    world.reveal()
    world.encrypt(lost=world.parties[:1])
    with pytest.raises(LostRoundError, match="begun anew"):
        world.server.share_requests()
    world.new_server(1, attempt=1, parties=world.parties[1:])
    found = world.run()
    assert np.abs(found.mean - world.weighted_mean(world.parties[1:])).max() < 2e-5


def test_a_client_lost_before_its_share_loses_the_round_without_a_trace():
    world = after_encryption()
    asked, replies = world.share(lost=world.parties[:1])
    with pytest.raises(LostRoundError, match="nothing was decrypted"):
        world.server.take_shares(asked, replies)
    world.new_server(1, attempt=1, parties=world.parties[1:])
    with pytest.raises(RefusedError, match="already answered"):
        world.commit()
    world.new_server(2)
    assert np.abs(world.run().mean - world.weighted_mean()).max() < 2e-5


def test_impostors_are_refused():
    world = World()
    world.commit()
    victim = world.parties[2]
    forger = Identity.generate(SystemRandom())
    commit = dict(world.server._commits[victim])
    commit["channel"] = bytes(range(32))
    statement = world.server.agreement.commit_statement(victim, commit)
    world.server._commits[victim] = {**commit, "signature": forger.sign(statement)}
    with pytest.raises(RefusedError, match=f"signature of client {victim}"):
        world.reveal()


def test_strangers_are_not_on_the_roster():
    world = World()
    stranger = 5
    agreement = Agreement(1, 0, (stranger, *world.parties), "default", "coefficients")
    world.server = type(world.server)(agreement, world.size)
    world.sessions[stranger] = world.sessions[world.parties[0]].__class__(
        stranger,
        Identity.generate(SystemRandom()),
        world.roster,
        world.sessions[world.parties[0]].backend,
        SystemRandom(),
        {},
    )
    world.examples[stranger] = 10
    world.commit()
    with pytest.raises(RefusedError, match="client 5 is not on the roster"):
        world.reveal()


def without_last(request: dict) -> dict:
    """Return a request that leaves the last party out of every list it is in."""
    count = len(request.get("members") or request.get("present"))
    return {
        name: value[:-1] if isinstance(value, list) and len(value) == count else value
        for name, value in request.items()
    }


def test_a_server_that_shows_different_commitments_gets_no_ciphertext():
    world = World(6)
    world.commit()
    requests = world.server.reveal_requests()
    first = world.parties[0]
    requests[first] = without_last(requests[first])
    replies = {p: world.sessions[p].reveal(r) for p, r in requests.items()}
    replies[first]["sealed"] = [*replies[first]["sealed"], bytes(60)]
    world.server.take_reveals(replies)
    requests = world.server.encrypt_requests()
    told = without_last(requests[first])
    with pytest.raises(RefusedError, match="does not open"):
        world.encrypt_one(first, told)


def test_a_server_that_shows_different_joint_keys_gets_no_share():
    world = World(6)
    world.commit()
    world.reveal()
    requests = world.server.encrypt_requests()
    first = world.parties[0]
    requests[first] = without_last(requests[first])
    world.server.take_ciphertexts({p: world.encrypt_one(p, r) for p, r in requests.items()})
    with pytest.raises(ProtocolError, match=r"not the sum|contributors"):
        world.share()
    for party, request in world.server.share_requests().items():
        with pytest.raises(ProtocolError):
            world.sessions[party].share(request)


def test_a_client_left_out_of_the_sum_does_not_help_to_open_it():
    world = after_encryption()
    request = next(iter(world.server.share_requests().values()))
    out = world.parties[0]
    tags = [world.server._tags[p] for p in world.parties[1:]]
    honest_looking = {
        **request,
        "contributors": list(world.parties[1:]),
        "tag": SumTag.add_tags(world.server.profile.data_ring, tags),
    }
    with pytest.raises(RefusedError, match="leaves this client's update out"):
        world.sessions[out].share(honest_looking)


@pytest.mark.parametrize("lie", ["twice", "fewer", "altered", "tag"])
def test_sums_that_are_not_the_sum_are_refused(lie):
    world = after_encryption()
    request = dict(next(iter(world.server.share_requests().values())))
    if lie == "twice":
        total = multikey.read_sum(world.server.profile, request["sum"])
        doubled = world.server.profile.data_ring.add(total, total)
        request["sum"] = multikey.wire.write(
            world.server.profile, multikey.wire.SUM, list(enumerate(doubled))
        )
        request["tag"] = SumTag.add_tags(world.server.profile.data_ring, [request["tag"]] * 2)
    elif lie == "fewer":
        request["contributors"] = list(world.parties[:4])
    elif lie == "altered":
        total = multikey.read_sum(world.server.profile, request["sum"]).copy()
        total[0, 0, 0] ^= np.uint64(1)
        request["sum"] = multikey.wire.write(
            world.server.profile, multikey.wire.SUM, list(enumerate(total))
        )
    else:
        request["tag"] = bytes(len(request["tag"]))
    with pytest.raises(RefusedError, match="not the sum of the ciphertexts"):
        world.sessions[world.parties[0]].share(request)


def test_stages_out_of_turn_are_refused():
    world = World()
    session = world.sessions[world.parties[0]]
    with pytest.raises(RefusedError, match="no key for it"):
        session.reveal({"round": 1, "attempt": 0})
    world.commit()
    with pytest.raises(RefusedError, match="out of turn"):
        session.share({"round": 1, "attempt": 0})
    with pytest.raises(RefusedError, match="keys were already made"):
        world.commit()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cohort", [3, 2, 1]),
        ("cohort", []),
        ("cohort", "everyone"),
        ("profile", "none"),
        ("packing", "bags"),
        ("threshold", 99),
        ("threshold", -1),
        ("round", "one"),
        ("round", True),
    ],
)
def test_nonsense_terms_are_refused(field, value):
    world = World()
    request = {**next(iter(world.server.commit_requests().values())), field: value}
    with pytest.raises(ProtocolError):
        world.sessions[world.parties[0]].commit(request, 10)


def test_a_garbage_share_is_noticed_and_nobody_else_is_blamed():
    world = after_encryption()
    asked, replies = world.share()
    first, second = world.parties[:2]
    replies[first] = replies[second]
    with pytest.raises(ChecksumError):
        world.server.take_shares(asked, replies)


def test_malformed_replies_are_set_aside_with_a_reason():
    world = World(5)
    world.commit()
    world.reveal()
    requests = world.server.encrypt_requests()
    replies = {p: world.encrypt_one(p, r) for p, r in requests.items()}
    bad = world.parties[0]
    replies[bad] = {**replies[bad], "ciphertext": b"junk"}
    world.server.take_ciphertexts(replies)
    assert "ciphertext" in world.server.faults[bad]
    assert world.server.missing == (bad,)


def test_an_update_that_is_not_finite_is_not_encrypted():
    world = World()
    world.updates[world.parties[0]][3] = np.nan
    world.commit()
    world.reveal()
    with pytest.raises(ProtocolError, match="not finite"):
        world.encrypt()


def test_large_entries_are_clipped_and_counted():
    world = World(4, 1000)
    for party in world.parties:
        world.updates[party][:100] = 50.0
    found = world.run()
    assert np.allclose(found.mean[:100], 8.0, atol=1e-4)
    assert found.clipped == pytest.approx(0.1, abs=1e-3)


def test_one_boastful_client_cannot_drown_the_others():
    world = World(5, sizes=[100, 100, 100, 100, 10**9])
    found = world.run()
    weights = np.array([100, 100, 100, 100, 1024.0])
    rows = np.stack(list(world.updates.values()))
    assert np.abs(found.mean - weights @ rows / weights.sum()).max() < 1e-4
    assert found.num_examples == pytest.approx(1424, rel=1e-3)


def disputed_world() -> tuple[World, dict[int, dict]]:
    """A round whose sum every client has refused."""
    world = after_encryption()
    requests = world.server.share_requests()
    for party, request in requests.items():
        with pytest.raises(DisputedError):
            world.sessions[party].share({**request, "tag": bytes(len(request["tag"]))})
    return world, requests


def test_a_disputed_sum_is_explained_and_can_never_be_opened_again():
    world, requests = disputed_world()
    told = {p: world.sessions[p].dispute(r) for p, r in world.server.dispute_requests().items()}
    assert world.server.take_disputes(told, world.training.model) == (), "nobody had lied"
    for party, request in requests.items():
        assert not any(world.sessions[party].memory["1.0"]["secret"])
        with pytest.raises(RefusedError, match="dropped its key"):
            world.sessions[party].share(request)


def test_a_false_tag_is_traced_to_its_sender():
    world, _ = disputed_world()
    liar = world.parties[3]
    world.server._tags[liar] = bytes(len(world.server._tags[liar]))
    told = {p: world.sessions[p].dispute(r) for p, r in world.server.dispute_requests().items()}
    assert world.server.take_disputes(told, world.training.model) == (liar,)


def test_false_seeds_are_traced_to_their_sender_or_their_teller():
    world, _ = disputed_world()
    told = {p: world.sessions[p].dispute(r) for p, r in world.server.dispute_requests().items()}
    teller = world.parties[1]
    lying = {**told, teller: {"seeds": [b"s" * 32 for _ in world.parties]}}
    assert world.server.take_disputes(lying, world.training.model) == (teller,)
    split = {
        p: {"seeds": [*reply["seeds"][:-1], bytes([p % 251]) * 32]} for p, reply in told.items()
    }
    assert world.server.take_disputes(split, world.training.model) == (world.parties[-1],)


def test_a_dispute_is_answered_after_a_refusal_alone_and_never_with_a_threshold():
    world = after_encryption()
    request = world.server.dispute_requests()[world.parties[0]]
    with pytest.raises(RefusedError, match="out of turn"):
        world.sessions[world.parties[0]].dispute(request)
    world = after_encryption(threshold=4)
    party, asked = next(iter(world.server.share_requests().items()))
    with pytest.raises(DisputedError):
        world.sessions[party].share({**asked, "tag": bytes(len(asked["tag"]))})
    with pytest.raises(RefusedError, match="opened without this client"):
        world.sessions[party].dispute(world.server.dispute_requests()[party])


def test_a_round_that_was_disputed_is_begun_anew_with_the_same_updates():
    world, _ = disputed_world()
    for party, request in world.server.dispute_requests().items():
        world.sessions[party].dispute(request)
    world.new_server(1, attempt=1, parties=world.parties[1:])
    found = world.run()
    assert np.abs(found.mean - world.weighted_mean(world.parties[1:])).max() < 2e-5


@pytest.mark.parametrize(
    ("field", "value"), [("round", -1), ("attempt", 1 << 63), ("cohort", [-1])]
)
def test_numbers_out_of_range_are_refused(field, value):
    world = World()
    request = {**next(iter(world.server.commit_requests().values())), field: value}
    with pytest.raises(ProtocolError):
        world.sessions[world.parties[0]].commit(request, 10)


def test_a_client_has_few_rounds_under_way():
    world = World()
    session = world.sessions[world.parties[0]]
    terms = [Agreement(50, n, world.parties, "default", "coefficients") for n in range(9)]
    for agreement in terms[:8]:
        session.commit(agreement.to_payload(), 10)
    with pytest.raises(RefusedError, match="8 rounds are under way"):
        session.commit(terms[8].to_payload(), 10)


@pytest.mark.parametrize("field", ["key", "nonce"])
def test_the_server_itself_notices_a_key_that_was_not_committed_to(field):
    world = World()
    world.commit()
    replies = {p: world.sessions[p].reveal(r) for p, r in world.server.reveal_requests().items()}
    liar = world.parties[1]
    spoilt = bytearray(replies[liar][field])
    spoilt[-1] ^= 1
    replies[liar] = {**replies[liar], field: bytes(spoilt)}
    world.server.take_reveals(replies)
    assert world.server.faults == {liar: "the key is not the one it committed to"}
    assert liar not in world.server.members


def test_the_server_itself_notices_a_signature_that_is_not_the_sender_s():
    world = World()
    replies = {
        p: world.sessions[p].commit(r, 10) for p, r in world.server.commit_requests().items()
    }
    first, second = world.parties[:2]
    replies[first] = {**replies[first], "signature": replies[second]["signature"]}
    world.server.take_commits(replies)
    assert "signature" in world.server.faults[first]
    assert world.server.present == world.parties[1:]


def kept_state(world: World, party: int) -> RoundState:
    memory = world.sessions[party].memory
    return RoundState.from_payload(next(memory[label] for label in memory if label != LEDGER))


def test_a_client_that_has_answered_holds_no_secret_any_more():
    world = after_encryption()
    party = world.parties[0]
    assert kept_state(world, party).secret.coefficients.any()
    asked, _ = world.share()
    state = kept_state(world, party)
    assert not state.secret.coefficients.any()
    assert not state.channel_secret
    with pytest.raises(RefusedError):
        world.sessions[party].share(asked[party])


def test_a_client_counts_its_answers_and_gives_one_for_one_sum():
    world = after_encryption()
    party = world.parties[0]
    once = replace(kept_state(world, party), answers=1, sum_digest=b"one")
    with pytest.raises(RefusedError, match="for another sum"):
        world.sessions[party]._count_answer(once, b"two")
    with pytest.raises(RefusedError, match="already answered 1 times"):
        world.sessions[party]._count_answer(once, b"one")
