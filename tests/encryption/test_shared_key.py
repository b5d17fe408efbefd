"""Plain CKKS with one key pair for all clients."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("tenseal")
import tenseal as ts

from fedguard.encryption.errors import LostRoundError, ProtocolError, RefusedError
from fedguard.encryption.lattice import tenseal_vectors as vectors
from fedguard.encryption.lattice.sampling import SystemRandom
from fedguard.encryption.protocol.agreement import Agreement
from fedguard.encryption.protocol.guards import Guards
from fedguard.encryption.protocol.identity import Identity, Roster
from fedguard.encryption.protocol.ledger import Training
from fedguard.encryption.protocol.shared_key import SharedKeyClient
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
        agreement = Agreement(1, 0, parties, "default", "slots")
        self.server = SharedKeyServer(agreement, SIZE)
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
            {p: self.encrypt_one(p, r) for p, r in requests.items() if p not in lost}
        )

    def encrypt_one(self, party, request):
        server_round = self.server.server_round
        training = Training(server_round, f"model {server_round}".encode())
        client = self.clients[party]
        return client.encrypt(request, self.updates[party], EXAMPLES[party], training)

    def confirm(self, lost=()):
        requests = self.server.confirm_requests()
        return self.server.take_confirmations(
            {p: self.clients[p].confirm(r) for p, r in requests.items() if p not in lost}
        )

    def open(self):
        asked = self.server.share_requests(self.confirm()[0])
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


def test_without_flooding_the_sum_is_exact():
    world = World(Guards.none())
    world.set_up()
    world.encrypt()
    assert np.abs(world.open().mean - world.mean()).max() < 1e-12


def test_the_server_holds_nothing_that_decrypts():
    world = World()
    world.set_up()
    world.encrypt()
    secret = world.clients[3].memory["key"]["secret"]
    held = repr(vars(world.server))
    assert repr(secret)[2:40] not in held
    assert all(secret not in box for box in world.server._sealed.values())


def test_an_opener_answers_once_and_for_the_list_it_confirmed():
    world = World()
    world.set_up()
    world.encrypt()
    opener = world.confirm()[0]
    request = world.server.share_requests(opener)[opener]
    with pytest.raises(RefusedError, match="confirmed another sum"):
        world.clients[opener].share({**request, "contributors": list(PARTIES[:3])})
    with pytest.raises(RefusedError, match="2 members have confirmed the sum, 3 are needed"):
        world.clients[opener].share(
            {**request, "signers": request["signers"][:2], "signatures": request["signatures"][:2]}
        )
    forged = [request["signatures"][0], *request["signatures"][:-1]]
    with pytest.raises(RefusedError, match="signature of client 5 is wrong"):
        world.clients[opener].share({**request, "signatures": forged})
    world.clients[opener].share(request)
    with pytest.raises(RefusedError, match="has answered"):
        world.clients[opener].share(request)


def test_a_client_confirms_one_list_per_round():
    world = World()
    world.set_up()
    world.encrypt()
    world.confirm()
    request = {"round": 1, "contributors": list(PARTIES[1:])}
    with pytest.raises(RefusedError, match="out of turn"):
        world.clients[5].confirm(request)


def test_a_client_signs_no_list_that_leaves_it_out():
    world = World()
    world.set_up()
    world.encrypt()
    with pytest.raises(RefusedError, match="leaves this client's update out"):
        world.clients[3].confirm({"round": 1, "contributors": list(PARTIES[1:])})


@pytest.mark.parametrize("stage", ["reveal", "encrypt"])
def test_no_stage_is_answered_twice_in_a_round(stage):
    """Road 3: two sealed messages under one nonce, two ciphertexts under one tag key."""
    world = World()
    requests = world.server.commit_requests()
    world.server.take_commits({p: world.clients[p].commit(r, 10) for p, r in requests.items()})
    requests = world.server.reveal_requests()
    replies = {p: world.clients[p].reveal(r) for p, r in requests.items()}
    leader = PARTIES[0]
    if stage == "reveal":
        with pytest.raises(RefusedError, match="out of turn"):
            world.clients[leader].reveal(requests[leader])
        return
    world.server.take_reveals(replies)
    requests = world.server.encrypt_requests()
    world.encrypt_one(leader, requests[leader])
    with pytest.raises(RefusedError, match="encrypted for it already"):
        world.encrypt_one(leader, requests[leader])


def test_sealed_keys_never_share_a_nonce():
    world = World()
    world.set_up()
    nonces = [box[:12] for box in world.server._sealed.values()]
    assert len(set(nonces)) == len(PARTIES)


def test_one_clients_ciphertext_is_not_opened_as_the_sum():
    world = World()
    world.set_up()
    requests = world.server.encrypt_requests()
    replies = {p: world.encrypt_one(p, r) for p, r in requests.items()}
    world.server.take_ciphertexts(replies)
    opener = world.confirm()[0]
    request = world.server.share_requests(opener)[opener]
    for tag in (request["tag"], replies[13]["tag"]):
        forged = {**request, "sum": replies[13]["ciphertext"], "tag": tag}
        with pytest.raises(RefusedError, match="not the sum of the ciphertexts"):
            world.clients[opener].share(forged)


def test_a_sum_that_says_how_to_read_itself_is_no_sum():
    """Road 2: the scale of a TenSEAL vector decides how much flooding is left."""
    world = World()
    world.set_up()
    world.encrypt()
    opener = world.confirm()[0]
    request = world.server.share_requests(opener)[opener]
    context = vectors.make_key_pair(vectors.CHAIN, 4)
    blob = ts.ckks_vector(context, [0.0] * vectors.CHAIN.slots).serialize()
    for hostile in (blob, [blob] * 3, request["sum"] + bytes(8)):
        with pytest.raises(ProtocolError):
            world.clients[opener].share({**request, "sum": hostile})
    values = np.frombuffer(world.clients[opener].share(request)["values"], dtype="<f8")
    noise = values[:SIZE] / values[SIZE] * 8.0 - world.mean()
    wanted = vectors.flooding_std(4) * 8.0 / values[SIZE]
    assert float(np.std(noise)) == pytest.approx(wanted, rel=0.1)


def test_an_absent_leader_is_one_clear_error():
    world = World()
    requests = world.server.commit_requests()
    world.server.take_commits({p: world.clients[p].commit(r, 10) for p, r in requests.items()})
    requests = world.server.reveal_requests()
    replies = {p: world.clients[p].reveal(r) for p, r in requests.items() if p != 3}
    with pytest.raises(LostRoundError, match="client 3, who was to make the key"):
        world.server.take_reveals(replies)


def test_an_absent_opener_is_replaced():
    world = World()
    world.set_up()
    world.encrypt()
    first, second = world.confirm()[:2]
    with pytest.raises(LostRoundError, match="nothing was decrypted"):
        world.server.take_shares(world.server.share_requests(first), {})
    asked = world.server.share_requests(second)
    found = world.server.take_shares(asked, {second: world.clients[second].share(asked[second])})
    assert np.abs(found.mean - world.mean()).max() < 2e-5


def test_stages_need_a_key_and_enough_members():
    world = World(parties=(3, 5))
    with pytest.raises(RefusedError, match="2 participants"):
        world.set_up()
    client = World().clients[3]
    for call in (client.reveal, client.share):
        with pytest.raises(RefusedError, match="no key for it"):
            call({"round": 1})


@pytest.mark.parametrize("lie", ["TenSEAL's own bytes", "one byte less", "a residue too large"])
def test_ciphertexts_of_other_parameters_are_set_aside(lie):
    world = World()
    world.set_up()
    requests = world.server.encrypt_requests()
    replies = {p: world.encrypt_one(p, r) for p, r in requests.items()}
    honest = replies[5]["ciphertext"]
    context = vectors.make_key_pair(vectors.STOCK, 4)
    hostile = {
        "TenSEAL's own bytes": ts.ckks_vector(context, [0.0] * 100).serialize(),
        "one byte less": honest[:-1],
        "a residue too large": b"\xff" * len(honest),
    }[lie]
    replies[5] = {**replies[5], "ciphertext": hostile}
    world.server.take_ciphertexts(replies)
    assert "ciphertext" in world.server.faults[5]
    assert world.server.contributors == (3, 8, 13)
    assert np.abs(world.open().mean - world.mean((3, 8, 13))).max() < 2e-5


def test_released_sums_carry_the_promised_noise():
    """Two openings of equal sums differ by the flooding, not by CKKS's own error."""
    world = World()
    world.set_up()
    found = []
    for server_round in (1, 2):
        world.server.begin(server_round)
        world.encrypt()
        opener = world.confirm()[0]
        reply = world.clients[opener].share(world.server.share_requests(opener)[opener])
        found.append(np.frombuffer(reply["values"], dtype="<f8")[:SIZE])
    spread = float(np.std(found[0] - found[1])) / np.sqrt(2)
    assert spread == pytest.approx(vectors.flooding_std(4), rel=0.1)


def test_vectors_survive_the_wire_and_add_up():
    secret = vectors.make_secret(vectors.CHAIN, SystemRandom())
    rng = np.random.default_rng(1)
    first, second = rng.normal(0, 0.05, (2, SIZE))
    context = vectors.key_pair_of(secret, 2)
    count = vectors.CHAIN.count(SIZE)
    sent = []
    for values in (first, second):
        data = vectors.write_vector(
            vectors.CHAIN, vectors.encrypt_vector(context, vectors.CHAIN, values)
        )
        sent.append(vectors.read_vector(vectors.CHAIN, count, data))
    total = vectors.add_vectors(vectors.CHAIN, *sent)
    found = vectors.decrypt_vector(context, vectors.CHAIN, total)[:SIZE]
    assert np.abs(found - first - second).max() < 1e-12


def test_two_holders_of_a_secret_read_each_other():
    secret = vectors.make_secret(vectors.CHAIN, SystemRandom())
    mine = vectors.key_pair_of(secret, 3)
    vectors.key_pair_of.cache_clear()
    theirs = vectors.key_pair_of(secret, 3)
    values = np.linspace(-8, 8, 100)
    found = vectors.decrypt_vector(
        theirs, vectors.CHAIN, vectors.encrypt_vector(mine, vectors.CHAIN, values)
    )
    assert np.abs(found[:100] - values).max() < 1e-12
    stranger = vectors.key_pair_of(vectors.make_secret(vectors.CHAIN, SystemRandom()), 3)
    read = vectors.decrypt_vector(
        stranger, vectors.CHAIN, vectors.encrypt_vector(mine, vectors.CHAIN, values)
    )
    assert np.abs(read[:100] - values).max() > 1


@pytest.mark.parametrize("data", [b"", bytes(4095), bytes([2]) * 4096, b"\x80" * 4096])
def test_only_small_polynomials_are_shared_keys(data):
    with pytest.raises(ProtocolError, match="not a polynomial of small coefficients"):
        vectors.read_secret(vectors.CHAIN, data)
