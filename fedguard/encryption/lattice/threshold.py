"""t-of-n: any t clients decrypt the sum, though others vanish after they uploaded.

Mouchet, Bertrand and Hubaux, "An Efficient Threshold Access-Structure for RLWE-Based Multiparty
Homomorphic Encryption", Journal of Cryptology 36, 2023. Every client deals Shamir shares of its
secret key, residue by residue; client m adds up what it was dealt, ``S_m = sum_i share_i(m)``, and
answers ``D_m = (lambda_m S_m) C1 + e*_m``: the Lagrange factor goes into the key share, so it does
not multiply the flooding. With t = n this is the multi-key scheme itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from fedguard.encryption.errors import ProtocolError
from fedguard.encryption.lattice import wire
from fedguard.encryption.lattice.modular import PrimeField, Residues
from fedguard.encryption.lattice.profiles import Profile
from fedguard.encryption.lattice.sampling import RandomSource, uniform

_COLUMNS = 256
"""Slots evaluated at a time, so that all points' values stay in cache."""


def deal(
    profile: Profile, secret: Residues, points: Sequence[int], threshold: int, source: RandomSource
) -> list[Residues]:
    """Return one Shamir share of a key for every evaluation point.

    Parameters
    ----------
    profile : Profile
        Ring and moduli.
    secret : ndarray
        (data limbs, 1, N) transform of the key.
    points : sequence of int
        Distinct positive evaluation points, one per client.
    threshold : int
        t: any t shares give the key, t - 1 say nothing about it.
    source : RandomSource
        Secret randomness.
    """
    if max(points) >= 1 << 12:
        raise ProtocolError(f"{max(points)} clients are too many for a threshold")
    ring = profile.data_ring
    shape = (threshold - 1, profile.ring_degree)
    dealt = np.stack(
        [
            _evaluate(field, np.concatenate([limb, uniform(source, shape, field)]), points)
            for field, limb in zip(ring.fields, secret, strict=True)
        ]
    )
    return [dealt[:, index : index + 1] for index in range(len(points))]


def _evaluate(field: PrimeField, coefficients: Residues, points: Sequence[int]) -> Residues:
    """Return (points, N) values of N polynomials with coefficients (t, N), by Horner's rule."""
    # Points are below 2^12 and values stay within p, so products fit 64 bits and are reduced late.
    abscissae = np.array(points, dtype=np.int64)[:, None]
    inverse, prime = 1.0 / field.prime, np.int64(field.prime)
    out = np.empty((len(points), coefficients.shape[1]), dtype=np.uint64)
    for start in range(0, coefficients.shape[1], _COLUMNS):
        columns = slice(start, start + _COLUMNS)
        value = np.zeros(out[:, columns].shape, dtype=np.int64)
        for coefficient in coefficients[::-1, columns].astype(np.int64):
            value *= abscissae
            value += coefficient
            value -= np.rint(value * inverse).astype(np.int64) * prime
        out[:, columns] = field.from_signed(value)
    return out


def combine(profile: Profile, shares: Iterable[Residues]) -> Residues:
    """Return S_m, the sum of the shares a client was dealt."""
    total = profile.data_ring.zeros(1)
    for share in shares:
        total = profile.data_ring.add(total, share)
    return total


def lagrange(prime: int, points: Sequence[int], point: int) -> int:
    """Return the weight of `point` when `points` interpolate at 0, modulo `prime`."""
    numerator = denominator = 1
    for other in points:
        if other != point:
            numerator = numerator * -other % prime
            denominator = denominator * (point - other) % prime
    return numerator * pow(denominator, -1, prime) % prime


def quorum_key(profile: Profile, combined: Residues, points: Sequence[int], point: int) -> Residues:
    """Return lambda_m S_m for the client at `point` within the quorum at `points`."""
    if point not in points or len(set(points)) != len(points):
        raise ProtocolError("the quorum does not list each member once")
    return np.stack(
        [
            field.mul_scalar(limb, lagrange(field.prime, points, point))
            for field, limb in zip(profile.data_ring.fields, combined, strict=True)
        ]
    )


def write_secret_share(profile: Profile, share: Residues) -> bytes:
    """Serialise a dealt share; it travels encrypted to its owner."""
    return wire.write(profile, wire.SECRET_SHARE, list(enumerate(share)))


def read_secret_share(profile: Profile, data: bytes) -> Residues:
    """Read a dealt share, (data limbs, 1, N)."""
    share = np.stack(wire.read(profile, wire.SECRET_SHARE, range(len(profile.data_ring)), data))
    if share.shape[1] != 1:
        raise ProtocolError("key share: more than one polynomial")
    return share
