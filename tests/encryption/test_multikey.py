"""The algebra of multi-key CKKS: sums open, single updates do not."""

from __future__ import annotations

import numpy as np
import pytest

from fedguard.encryption.errors import ChecksumError, ProtocolError
from fedguard.encryption.lattice import multikey
from fedguard.encryption.lattice.backend_numpy import NumpyBackend
from fedguard.encryption.lattice.multikey import Aggregate, JointKey, SecretKey
from fedguard.encryption.lattice.packing import make_packing
from fedguard.encryption.lattice.profiles import Profile, profile
from fedguard.encryption.lattice.sampling import SystemRandom

SOURCE, BACKEND = SystemRandom(), NumpyBackend()
DEFAULT = profile("default")
RING = DEFAULT.data_ring
SIZE = 5000


class Algebra:
    """Keys and ciphertexts of some clients, without any messages."""

    def __init__(self, clients: int = 4, *, own_key_by_mistake: int | None = None) -> None:
        self.a = multikey.common_polynomial(DEFAULT, b"algebra")
        self.secrets = [SecretKey.generate(DEFAULT, SOURCE) for _ in range(clients)]
        self.b = [s.public_share(DEFAULT, self.a, SOURCE) for s in self.secrets]
        self.joint = multikey.joint_key(DEFAULT, self.a, self.b)
        self.packing = make_packing("coefficients", DEFAULT, clients)
        rng = np.random.default_rng(0)
        self.updates = [rng.normal(0, 0.05, SIZE) for _ in range(clients)]
        self.ciphertexts = []
        for client, update in enumerate(self.updates):
            key = self.joint
            if client == own_key_by_mistake:
                key = JointKey(self.b[client], self.a)
            self.ciphertexts.append(
                multikey.encrypt(DEFAULT, BACKEND, self.packing, update, key, SOURCE)
            )
        self.total = Aggregate(DEFAULT, len(self.ciphertexts[0].c0))
        for ciphertext in self.ciphertexts:
            self.total.add(ciphertext)

    def share(self, client: int, c1=None):
        key = self.secrets[client].transform(DEFAULT)
        return multikey.decryption_share(DEFAULT, self.total.c1 if c1 is None else c1, key, SOURCE)

    def alone(self, client: int) -> Aggregate:
        total = Aggregate(DEFAULT, len(self.ciphertexts[client].c0))
        total.add(self.ciphertexts[client])
        return total

    def opens(self, client: int, shares) -> bool:
        """Whether a server gets the client's update from its ciphertext and these shares."""
        try:
            found = multikey.fuse(self.alone(client), shares, self.packing, SIZE)
        except ChecksumError:
            return False
        return bool(np.abs(found - self.updates[client]).max() < 1e-3)


def test_the_sum_opens_within_the_reckoned_error():
    world = Algebra()
    found = multikey.fuse(world.total, [world.share(k) for k in range(4)], world.packing, SIZE)
    error = (found - np.sum(world.updates, axis=0)) / 4
    assert error.std() == pytest.approx(DEFAULT.error_std(4), rel=0.1)


def test_a_share_on_the_sum_does_not_open_the_own_ciphertext():
    world = Algebra()
    for client in range(4):
        assert not world.opens(client, [world.share(client)])


def test_own_key_by_mistake_would_open_the_update_and_is_caught():
    """MK-CKKS instead of xMK-CKKS: encryption under b_i, share on c1_i."""
    world = Algebra(own_key_by_mistake=0)
    own = world.share(0, world.ciphertexts[0].c1)
    assert world.opens(0, [own]), "this is the hole that the joint key closes"
    with pytest.raises(ChecksumError):
        multikey.fuse(world.total, [world.share(k) for k in range(4)], world.packing, SIZE)


def test_own_c1_by_mistake_is_caught_and_opens_nothing_by_itself():
    world = Algebra()
    wrong = world.share(0, world.ciphertexts[0].c1)
    assert not world.opens(0, [wrong])
    shares = [wrong, *(world.share(k) for k in range(1, 4))]
    with pytest.raises(ChecksumError):
        multikey.fuse(world.total, shares, world.packing, SIZE)
    assert world.opens(0, [world.share(k, world.ciphertexts[0].c1) for k in range(4)]), (
        "all clients answering for one c1 is the substitution attack"
    )


def test_two_honest_clients_keep_the_victim_hidden_from_server_and_colluders():
    """n - 2 colluders add exact products; the other honest client's key still masks the rest."""
    world = Algebra(clients=5)
    victim, other = 0, 1
    c1 = world.ciphertexts[victim].c1
    colluders = [
        RING.drop_to_first(RING.intt(RING.mul(c1, world.secrets[k].transform(DEFAULT))))
        for k in range(2, 5)
    ]
    assert not world.opens(victim, colluders)
    assert not world.opens(victim, [*colluders, world.share(victim)])
    assert not world.opens(victim, [*colluders, world.share(victim), world.share(other)])
    residue = world.ciphertexts[victim].c0
    for share in colluders:
        residue = RING.fields[0].add(residue, share)
    scaled = residue / RING.primes[0]
    histogram = np.histogram(scaled, bins=16, range=(0, 1))[0]
    expected = scaled.size / 16
    chi_squared = float(((histogram - expected) ** 2 / expected).sum())
    assert chi_squared < 45, "what is left is not uniform"
    everyone = [
        RING.drop_to_first(RING.intt(RING.mul(c1, s.transform(DEFAULT)))) for s in world.secrets
    ]
    assert world.opens(victim, everyone), "the test itself can open what all keys open"


def test_server_and_colluders_subtract_down_to_the_honest_sum_and_no_further():
    world = Algebra(clients=4)
    total = multikey.fuse(world.total, [world.share(k) for k in range(4)], world.packing, SIZE)
    honest = total - world.updates[2] - world.updates[3]
    assert np.abs(honest - world.updates[0] - world.updates[1]).max() < 1e-4
    assert np.abs(honest / 2 - world.updates[0]).max() > 1e-2


@pytest.mark.parametrize("spoil", ["missing", "twice", "foreign", "noise"])
def test_wrong_shares_raise_instead_of_giving_garbage(spoil):
    world = Algebra()
    shares = [world.share(k) for k in range(4)]
    if spoil == "missing":
        shares.pop()
    elif spoil == "twice":
        shares[0] = shares[1]
    elif spoil == "foreign":
        shares[0] = Algebra().share(0)
    else:
        shares[0] = shares[0].copy()
        shares[0][0, 5] ^= np.uint64(1 << 28)
    with pytest.raises(ChecksumError, match="share is missing"):
        multikey.fuse(world.total, shares, world.packing, SIZE)


def test_a_share_of_another_length_is_refused():
    world = Algebra()
    with pytest.raises(ProtocolError, match="were expected"):
        multikey.fuse(world.total, [world.share(0)[:1]], world.packing, SIZE)
    with pytest.raises(ProtocolError, match="were expected"):
        Aggregate(DEFAULT, 7).add(world.ciphertexts[0])


def test_enough_answers_on_a_thin_flood_give_the_whole_key():
    """Why a key answers once: with sigma = 4 and no limbs to drop, 2,048 answers give s C1."""
    thin = Profile("thin", 2048, (30,), 24, 2.0)
    ring = thin.data_ring
    secret = SecretKey.generate(thin, SOURCE)
    key = secret.transform(thin)
    total = ring.uniform(b"some sum", 1)
    exact = ring.intt(ring.mul(total, key))[0]
    field = ring.fields[0]
    offset = np.zeros(exact.shape)
    answers = 2048
    for _ in range(answers):
        share = multikey.decryption_share(thin, total, key, SOURCE)
        offset += field.centred(field.sub(share, exact))
    averaged = np.rint(offset / answers).astype(np.int64)
    recovered = field.add(exact, field.from_signed(averaged))
    slots = field.mul(field.ntt(recovered), field.inverse(total[0]))
    assert np.array_equal(field.centred(field.intt(slots))[0], secret.coefficients)


def test_secret_keys_survive_their_bytes():
    secret = SecretKey.generate(DEFAULT, SOURCE)
    again = SecretKey.from_bytes(secret.to_bytes())
    assert np.array_equal(again.coefficients, secret.coefficients)
    assert len(secret.to_bytes()) == DEFAULT.ring_degree
