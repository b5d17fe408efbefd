"""Secret randomness: the system's CSPRNG, and the distributions drawn from it."""

from __future__ import annotations

import hashlib
import os
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedguard.encryption.lattice.modular import PrimeField, Residues, Signed

_CBD_BITS = 21
ERROR_VARIANCE = _CBD_BITS / 2
"""Variance of `centred_binomial`; standard deviation 3.24, as in SEAL's default sampler."""
TERNARY_VARIANCE = 2 / 3
"""Variance of `ternary`."""
_LOW_BITS = 20
"""Low bits of wide noise that are drawn uniformly, since a float64 Gaussian has none to spare."""


class RandomSource(Protocol):
    """Where secret bytes come from."""

    def bytes(self, count: int) -> bytes:
        """Return `count` fresh secret bytes."""
        ...


class SystemRandom:
    """The operating system's cryptographically secure generator."""

    def bytes(self, count: int) -> bytes:
        """Return `count` bytes of `os.urandom`."""
        return os.urandom(count)


class InsecureSeededRandom:
    """A reproducible stream for debugging: whoever knows the seed knows every key.

    Parameters
    ----------
    seed : int
        Seed of the run.
    label : str
        What the stream is for, such as a client's id; other labels give other streams.
    """

    def __init__(self, seed: int, label: str) -> None:
        self._key = hashlib.sha256(f"insecure/{seed}/{label}".encode()).digest()
        self._calls = 0

    def bytes(self, count: int) -> bytes:
        """Return the next `count` bytes of the stream."""
        self._calls += 1
        return hashlib.shake_256(self._key + self._calls.to_bytes(8, "little")).digest(count)


def ternary(source: RandomSource, shape: tuple[int, ...]) -> Signed:
    """Return uniform values of {-1, 0, 1}: secret keys and encryption randomness."""
    size = int(np.prod(shape))
    found = np.empty(0, dtype=np.uint8)
    while found.size < size:
        missing = size - found.size
        drawn = np.frombuffer(source.bytes(missing + missing // 64 + 64), dtype=np.uint8)
        found = np.concatenate([found, drawn[drawn < 255] % 3])
    return (found[:size].astype(np.int64) - 1).reshape(shape)


def centred_binomial(source: RandomSource, shape: tuple[int, ...]) -> Signed:
    """Return RLWE errors: the difference of two sums of 21 fair bits, standard deviation 3.24."""
    size = int(np.prod(shape))
    words = np.frombuffer(source.bytes(8 * size), dtype="<u8")
    mask = np.uint64((1 << _CBD_BITS) - 1)
    ones = np.bitwise_count(words & mask).astype(np.int64)
    ones -= np.bitwise_count((words >> np.uint64(_CBD_BITS)) & mask)
    errors: Signed = ones.reshape(shape)
    return errors


def flooding(source: RandomSource, shape: tuple[int, ...], bits: float) -> Signed:
    """Return wide noise: Gaussian of standard deviation 2^`bits`, rounded to integers.

    Box-Muller on 53-bit uniforms, so no value lies beyond 8.6 standard deviations. Where float64
    runs out of low bits these are drawn uniformly instead, which adds 2^20 / sqrt(12) at most.

    Parameters
    ----------
    source : RandomSource
        Where the bytes come from.
    shape : tuple of int
        Shape of the result.
    bits : float
        log2 of the standard deviation, 0 to 58.
    """
    if not 0 <= bits <= 58:
        raise ValueError(f"flooding of 2^{bits:g} does not fit 64-bit integers")
    size = int(np.prod(shape))
    half = (size + 1) // 2
    words = np.frombuffer(source.bytes(16 * half), dtype="<u8").reshape(2, half)
    unit = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    radius = np.sqrt(-2.0 * np.log1p(-unit[0]))
    angle = 2.0 * np.pi * unit[1]
    normal: NDArray[np.float64] = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    normal = normal[:size]
    low_bits = _LOW_BITS if bits > 30 else 0
    values = np.rint(normal * 2.0 ** (bits - low_bits)).astype(np.int64)
    if low_bits:
        low = np.frombuffer(source.bytes(4 * size), dtype="<u4") & np.uint32((1 << low_bits) - 1)
        values = (values << np.int64(low_bits)) + low.astype(np.int64) - (1 << (low_bits - 1))
    noise: Signed = values.reshape(shape)
    return noise


def uniform(source: RandomSource, shape: tuple[int, ...], field: PrimeField) -> Residues:
    """Return uniform residues of a prime field, by rejection."""
    size = int(np.prod(shape))
    mask = np.uint64((1 << field.bits) - 1)
    found = np.empty(0, dtype=np.uint64)
    while found.size < size:
        wanted = size - found.size + size // 8 + 64
        words = np.frombuffer(source.bytes(8 * wanted), dtype="<u8") & mask
        found = np.concatenate([found, words[words < np.uint64(field.prime)]])
    return found[:size].reshape(shape)
