"""Multi-key CKKS: the algebra of keys, ciphertexts, shares and fusion.

Ma, Naas, Sigg and Lyu, "Privacy-preserving federated learning based on multi-key homomorphic
encryption", International Journal of Intelligent Systems 37(9), 2022: a reading of, from its
abstract and public restatements. For clients i with a common uniform polynomial a:

    key          s_i small,  b_i = -s_i a + e_i,   joint key b = sum_i b_i
    encryption   (c0_i, c1_i) = (v_i b + m_i + e0_i, v_i a + e1_i), always under the joint key
    sum          C0 = sum_i c0_i,  C1 = sum_i c1_i
    share        D_i = s_i C1 + e*_i   with flooding e*_i
    fusion       sum_i m_i ~ C0 + sum_i D_i

Departures: c0_i and D_i travel rounded from modulus Q to its first prime q_0 (a CKKS rescaling,
here of the parts alone that carry the message), which halves their bytes and costs less accuracy
than the flooding; messages sit in coefficients; TenSEAL's special prime shrinks the encryption
noise. Two slips turn this into a scheme in which the server opens every update: encrypting under
one's own b_i, and sharing on one's own c1_i. The functions here take joint key and sum as typed
objects that only `joint_key` and `Aggregate.add` make.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fedguard.encryption.errors import ProtocolError
from fedguard.encryption.lattice import wire
from fedguard.encryption.lattice.backend import Backend
from fedguard.encryption.lattice.modular import Residues, Signed
from fedguard.encryption.lattice.packing import Packing, Values
from fedguard.encryption.lattice.profiles import Profile
from fedguard.encryption.lattice.sampling import RandomSource, centred_binomial, flooding, ternary

_BLOCK = 32
"""Ciphertexts that a share is computed for at a time."""


@dataclass(frozen=True)
class JointKey:
    """The sum of the clients' public keys: b, with the common polynomial a."""

    b: Residues
    a: Residues


@dataclass(frozen=True)
class Ciphertext:
    """One client's encrypted vector.

    Attributes
    ----------
    c0 : ndarray
        (count, N) coefficients modulo q_0; carries the message.
    c1 : ndarray
        (data limbs, count, N) transforms modulo Q.
    """

    c0: Residues
    c1: Residues

    def to_bytes(self, profile: Profile) -> bytes:
        """Serialise."""
        return wire.write(profile, wire.CIPHERTEXT, [(0, self.c0), *enumerate(self.c1)])

    @classmethod
    def from_bytes(cls, profile: Profile, data: bytes) -> Ciphertext:
        """Read; raises `ProtocolError` on anything but a ciphertext of this profile."""
        limbs = range(len(profile.data_ring))
        c0, *c1 = wire.read(profile, wire.CIPHERTEXT, [0, *limbs], data)
        return cls(c0, np.stack(c1))


class Aggregate:
    """The running sum of ciphertexts, as the server keeps it.

    Parameters
    ----------
    profile : Profile
        Ring and moduli.
    count : int
        Ciphertexts per client.
    """

    def __init__(self, profile: Profile, count: int) -> None:
        self.profile = profile
        self.contributions = 0
        self.c0: Residues = np.zeros((count, profile.ring_degree), dtype=np.uint64)
        self.c1: Residues = profile.data_ring.zeros(count)

    def add(self, ciphertext: Ciphertext) -> None:
        """Add one client's ciphertext; raises `ProtocolError` if it holds another number."""
        if ciphertext.c0.shape != self.c0.shape:
            raise ProtocolError(
                f"{len(ciphertext.c0)} ciphertexts where {len(self.c0)} were expected"
            )
        ring = self.profile.data_ring
        self.c0 = ring.fields[0].add(self.c0, ciphertext.c0)
        self.c1 = ring.add(self.c1, ciphertext.c1)
        self.contributions += 1

    def remove(self, ciphertext: Ciphertext) -> None:
        """Take one client's ciphertext, which was added, out again."""
        ring = self.profile.data_ring
        self.c0 = ring.fields[0].sub(self.c0, ciphertext.c0)
        self.c1 = ring.sub(self.c1, ciphertext.c1)
        self.contributions -= 1

    def sum_bytes(self, without: Ciphertext | None = None) -> bytes:
        """Serialise C1, which is what clients need for their shares; `without` one of them."""
        c1 = self.c1 if without is None else self.profile.data_ring.sub(self.c1, without.c1)
        return wire.write(self.profile, wire.SUM, list(enumerate(c1)))


def read_sum(profile: Profile, data: bytes) -> Residues:
    """Return the (data limbs, count, N) polynomials C1 that a server sent."""
    return np.stack(wire.read(profile, wire.SUM, range(len(profile.data_ring)), data))


def common_polynomial(profile: Profile, context: bytes) -> Residues:
    """Return the (key limbs, 1, N) polynomial a of a round, expanded from public data."""
    return profile.key_ring.uniform(b"fedguard common polynomial" + context, 1)


@dataclass(frozen=True)
class SecretKey:
    """A client's small secret polynomial: (N,) values in {-1, 0, 1}."""

    coefficients: Signed

    @classmethod
    def generate(cls, profile: Profile, source: RandomSource) -> SecretKey:
        """Draw a fresh key."""
        return cls(ternary(source, (profile.ring_degree,)))

    def to_bytes(self) -> bytes:
        """Serialise; for the client's own state alone."""
        return self.coefficients.astype(np.int8).tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> SecretKey:
        """Read what `to_bytes` wrote."""
        return cls(np.frombuffer(data, dtype=np.int8).astype(np.int64))

    def transform(self, profile: Profile) -> Residues:
        """Return (data limbs, 1, N): the key as shares multiply with it."""
        return profile.data_ring.embed(self.coefficients[None])

    def public_share(self, profile: Profile, a: Residues, source: RandomSource) -> Residues:
        """Return b_i = -s_i a + e_i, (key limbs, 1, N)."""
        ring = profile.key_ring
        error = ring.embed(centred_binomial(source, (1, profile.ring_degree)))
        return ring.sub(error, ring.mul(a, ring.embed(self.coefficients[None])))


def write_key(profile: Profile, b: Residues) -> bytes:
    """Serialise a public key share."""
    return wire.write(profile, wire.KEY, list(enumerate(b)))


def read_key(profile: Profile, data: bytes) -> Residues:
    """Read a public key share: exactly one polynomial."""
    b = np.stack(wire.read(profile, wire.KEY, range(len(profile.key_ring)), data))
    if b.shape[1] != 1:
        raise ProtocolError(f"public key share: {b.shape[1]} polynomials, expected 1")
    return b


def joint_key(profile: Profile, a: Residues, shares: Iterable[Residues]) -> JointKey:
    """Return the sum of public key shares."""
    b = profile.key_ring.zeros(1)
    for share in shares:
        b = profile.key_ring.add(b, share)
    return JointKey(b, a)


def encrypt(
    profile: Profile,
    backend: Backend,
    packing: Packing,
    values: Values,
    key: JointKey,
    source: RandomSource,
) -> Ciphertext:
    """Encrypt a clipped vector under the joint key.

    Parameters
    ----------
    profile : Profile
        Ring and moduli.
    backend : Backend
        Makes the encryptions of zero.
    packing : Packing
        Lays the vector out in polynomials.
    values : ndarray
        (n,) float64 within the profile's clip.
    key : JointKey
        The joint key; never a client's own.
    source : RandomSource
        Secret randomness.
    """
    messages = packing.encode(values)
    zero = backend.encrypt_zero(profile, key.b, key.a, len(messages), source)
    ring = profile.data_ring
    c0 = ring.drop_to_first(ring.intt(zero[0]))
    return Ciphertext(ring.fields[0].add(c0, messages), zero[1])


def decryption_share(
    profile: Profile, total: Residues, key: Residues, source: RandomSource
) -> Residues:
    """Return D_i = round((s_i C1 + e*_i) q_0 / Q), (count, N) coefficients modulo q_0.

    Parameters
    ----------
    profile : Profile
        Ring, moduli and flooding.
    total : ndarray
        (data limbs, count, N) the sum C1.
    key : ndarray
        (data limbs, 1, N) transform of s_i, or of a share of the joint secret.
    source : RandomSource
        Secret randomness of the flooding.
    """
    ring = profile.data_ring
    out = np.empty(total.shape[1:], dtype=np.uint64)
    for start in range(0, total.shape[1], _BLOCK):
        rows = slice(start, start + _BLOCK)
        product = ring.intt(ring.mul(total[:, rows], key))
        noise = flooding(source, product.shape[1:], profile.flooding_bits)
        out[rows] = ring.drop_to_first(ring.add(product, ring.from_signed(noise)))
    return out


def exact_share(profile: Profile, total: Residues, key: Residues) -> Residues:
    """Return s_i C1 without flooding or rounding, (data limbs, count, N): gives the key away.

    What careless implementations send; here for the attack that shows it.
    """
    return profile.data_ring.mul(total, key)


def write_share(profile: Profile, share: Residues) -> bytes:
    """Serialise a decryption share."""
    return wire.write(profile, wire.SHARE, [(0, share)])


def read_share(profile: Profile, data: bytes) -> Residues:
    """Read a decryption share, (count, N) modulo q_0."""
    return wire.read(profile, wire.SHARE, [0], data)[0]


def fuse(aggregate: Aggregate, shares: Iterable[Residues], packing: Packing, size: int) -> Values:
    """Return the sum of the clients' vectors.

    Raises
    ------
    ChecksumError
        If the shares are not those of this sum.
    ProtocolError
        If a share holds another number of polynomials.
    """
    field = aggregate.profile.data_ring.fields[0]
    total = aggregate.c0
    for share in shares:
        if share.shape != total.shape:
            raise ProtocolError(f"{len(share)} shares where {len(total)} were expected")
        total = field.add(total, share)
    return packing.decode(total, size, aggregate.contributions)
