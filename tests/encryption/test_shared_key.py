"""Plain CKKS with one key pair for all clients."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("tenseal")

from fedguard.encryption.errors import LostRoundError, ProtocolError, RefusedError
from fedguard.encryption.lattice import tenseal_vectors as vectors
from fedguard.encryption.lattice.sampling import SystemRandom
from fedguard.encryption.protocol.agreement import Agreement
from fedguard.encryption.protocol.client import Guards
from fedguard.encryption.protocol.identity import Identity, Roster
from fedguard.encryption.protocol.shared_key import SharedKeyClient, opener_of
from fedguard.encryption.protocol.shared_key_server import SharedKeyServer

PARTIES = (3, 5, 8, 13)
SIZE = 5000
EXAMPLES = {3: 60, 5: 100, 8: 128, 13: 33}


class World:
    def __init__(self, guards: Guards | None = None, parties=PARTIES) -> None:
        source = SystemRandom()
        identities = {party: Identity.generate(source) for party in parties}
        roster = Roster({party: key.public for party, key in identities.items()})
        self.clients = {
            party: SharedKeyClient(party, key, roster, source, {}, guards)
            for party, key in identities.items()
        }
        recipe = vectors.CHAIN if guards is None or guards.flooding else vectors.STOCK
        agreement = Agreement(1, 0, parties, "default", "slots")
        self.server = SharedKeyServer(agreement, SIZE, recipe)
        rng = np.random.default_rng(0)
        self.updates = {party: rng.normal(0, 0.05, SIZE) for party in parties}

    def set_up(self) -> None:
        requests = self.server.commit_requests()
        self.server.take_commits(
            {p: self.clients[p].commit(r, EXAMPLES[p]) for p, r in requests.items()}
        )
        requests = self.server.reveal_requests()
        self.server.take_reveals({p: self.clients[p].reveal(r) for p, r in requests.items()})

    def encrypt(self, lost=()) -> None:
        requests = self.server.encrypt_requests()
        self.server.take_ciphertexts(
            {
                p: self.clients[p].encrypt(r, self.updates[p], EXAMPLES[p])
                for p, r in requests.items()
                if p not in lost
            }
        )

    def open(self):
        asked = self.server.share_requests()
        return self.server.take_shares(
            asked, {p: self.clients[p].share(r) for p, r in asked.items()}
        )

    def mean(self, parties=PARTIES):
        weights = np.array([EXAMPLES[p] for p in parties], dtype=np.float64)
        return weights @ np.stack([self.updates[p] for p in parties]) / weights.sum()


def test_two_rounds_under_one_key_give_the_weighted_mean():
    world = World()
    world.set_up()
    for server_round in (1, 2):
        world.server.begin(server_round)
        world.encrypt()
        found = world.open()
        assert np.abs(found.mean - world.mean()).max() < 2e-5
        assert found.num_examples == pytest.approx(321, abs=0.1)


def test_vanished_clients_are_simply_not_in_the_sum():
    world = World()
    world.set_up()
    world.encrypt(lost=[3])
    found = world.open()
    assert found.contributors == PARTIES[1:]
    assert np.abs(found.mean - world.mean(PARTIES[1:])).max() < 2e-5


def test_the_naive_mode_is_the_stock_recipe():
    world = World(Guards.none())
    world.set_up()
    world.encrypt()
    assert np.abs(world.open().mean - world.mean()).max() < 1e-5


def test_the_server_holds_no_secret_key():
    world = World()
    world.set_up()
    context = vectors.context_of(world.server._context)
    assert context.is_public()
    assert not context.has_secret_key()
    world.encrypt()
    blobs = world.server._vectors[3]
    with pytest.raises(ValueError, match="secret"):
        vectors.decrypt_vector(context, blobs)


def test_only_the_opener_answers_and_once():
    world = World()
    world.set_up()
    world.encrypt()
    opener = opener_of(PARTIES, 1)
    request = world.server.share_requests()[opener]
    other = next(party for party in PARTIES if party != opener)
    with pytest.raises(RefusedError, match="not the opener"):
        world.clients[other].share(request)
    world.clients[opener].share(request)
    with pytest.raises(RefusedError, match="opened a sum already"):
        world.clients[opener].share(request)


def test_one_clients_ciphertext_is_not_opened_as_the_sum():
    world = World()
    world.set_up()
    world.encrypt()
    opener = opener_of(PARTIES, 1)
    request = world.server.share_requests()[opener]
    victim = world.server._vectors[13]
    for tag in (request["tag"], world.server._tags[13]):
        forged = {**request, "sum": victim, "tag": tag}
        with pytest.raises(RefusedError, match="not the sum of the ciphertexts"):
            world.clients[opener].share(forged)


def test_an_absent_leader_or_opener_is_one_clear_error():
    world = World()
    requests = world.server.commit_requests()
    world.server.take_commits({p: world.clients[p].commit(r, 10) for p, r in requests.items()})
    requests = world.server.reveal_requests()
    replies = {p: world.clients[p].reveal(r) for p, r in requests.items() if p != 3}
    with pytest.raises(LostRoundError, match="client 3, who was to make the key"):
        world.server.take_reveals(replies)
    world = World()
    world.set_up()
    world.encrypt()
    with pytest.raises(LostRoundError, match="nothing was decrypted"):
        world.server.take_shares(world.server.share_requests(), {})


def test_stages_need_a_key_and_enough_members():
    world = World(parties=(3, 5))
    with pytest.raises(RefusedError, match="2 participants"):
        world.set_up()
    client = World().clients[3]
    for call in (client.reveal, client.share):
        with pytest.raises(RefusedError, match="no shared key"):
            call({"round": 1})


def test_ciphertexts_of_other_parameters_are_set_aside():
    world = World()
    world.set_up()
    requests = world.server.encrypt_requests()
    replies = {p: world.clients[p].encrypt(r, world.updates[p], 10) for p, r in requests.items()}
    context = vectors.make_key_pair(vectors.STOCK, 4)
    foreign = vectors.encrypt_vector(context, np.zeros(SIZE + 2), vectors.CHAIN.slots)
    replies[5] = {**replies[5], "ciphertexts": foreign}
    world.server.take_ciphertexts(replies)
    assert "agreed parameters" in world.server.faults[5]
    assert 5 not in world.server.contributors


def test_released_sums_carry_the_promised_noise():
    """Two openings of equal sums differ by the flooding, not by CKKS's own error."""
    world = World()
    world.set_up()
    found = []
    for server_round in (1, 2):
        world.server.begin(server_round)
        world.encrypt()
        opener = opener_of(PARTIES, server_round)
        reply = world.clients[opener].share(world.server.share_requests()[opener])
        found.append(np.frombuffer(reply["values"], dtype="<f8")[:SIZE])
    spread = float(np.std(found[0] - found[1])) / np.sqrt(2)
    assert spread == pytest.approx(vectors.flooding_std(4), rel=0.1)


def test_polynomials_of_junk_are_refused():
    context = vectors.make_key_pair(vectors.STOCK, 3)
    blobs = vectors.encrypt_vector(context, np.zeros(10), 10)
    with pytest.raises(ProtocolError, match="agreed parameters"):
        vectors.polynomials_of(vectors.CHAIN, blobs)
