"""Arithmetic modulo one NTT prime, vectorised: the innermost loop of every lattice operation.

Residues are uint64 arrays in [0, p). Products use one float64 quotient, which is exact enough for
primes of up to 50 bits; inside a transform values stay signed and are reduced only where the
float64 quotient would otherwise lose its last bit.
"""

from __future__ import annotations

import math
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

Residues = NDArray[np.uint64]
Signed = NDArray[np.int64]

MAX_PRIME_BITS = 50
_ROWS = 16
"""Polynomials transformed at a time: about what a core's second-level cache holds."""
_EXACT = 2.0**52.5
"""Signed values up to here convert to float64 without error."""


def is_prime(number: int) -> bool:
    """Return whether `number`, below 2^64, is prime (Miller-Rabin with fixed bases)."""
    bases = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
    if number < 2:
        return False
    for base in bases:
        if number % base == 0:
            return number == base
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    return all(_passes(base, number, odd, twos) for base in bases)


def _passes(base: int, number: int, odd: int, twos: int) -> bool:
    x = pow(base, odd, number)
    if x in (1, number - 1):
        return True
    for _ in range(twos - 1):
        x = x * x % number
        if x == number - 1:
            return True
    return False


def ntt_primes(degree: int, bits: tuple[int, ...]) -> tuple[int, ...]:
    """Return distinct primes p = 1 (mod 2 `degree`), the largest of each bit length first.

    The same primes, in the same order, as SEAL's ``CoeffModulus::Create``: for a bit length that
    occurs several times its largest primes are handed out from the smallest of them upwards.

    Parameters
    ----------
    degree : int
        Ring degree N, a power of two.
    bits : tuple of int
        Bit length of each prime.
    """
    step = 2 * degree
    pools: dict[int, list[int]] = {}
    for size in set(bits):
        candidate = ((1 << size) - 2) // step * step + 1
        found: list[int] = []
        while len(found) < bits.count(size) and candidate.bit_length() == size:
            if is_prime(candidate):
                found.append(candidate)
            candidate -= step
        if len(found) < bits.count(size):
            raise ValueError(f"not enough {size}-bit primes congruent to 1 modulo {step}")
        pools[size] = found
    return tuple(pools[size].pop() for size in bits)


def minimal_root(degree: int, prime: int) -> int:
    """Return the smallest primitive 2 `degree`-th root of unity modulo `prime`."""
    exponent = (prime - 1) // (2 * degree)
    base = 2
    while pow(root := pow(base, exponent, prime), degree, prime) != prime - 1:
        base += 1
    square = root * root % prime
    best = current = root
    for _ in range(degree - 1):
        current = current * square % prime
        best = min(best, current)
    return best


def bit_reversed(count: int) -> NDArray[np.int64]:
    """Return the bit-reversal permutation of ``range(count)``, a power of two."""
    index = np.arange(count)
    out = np.zeros(count, dtype=np.int64)
    for _ in range(count.bit_length() - 1):
        out = (out << 1) | (index & 1)
        index >>= 1
    return out


def _powers(base: int, count: int, prime: int) -> list[int]:
    out = [1]
    for _ in range(count - 1):
        out.append(out[-1] * base % prime)
    return out


class _Twiddles:
    """Fixed factors, centred, with their float64 quotients by the prime."""

    def __init__(self, factors: list[int] | NDArray[np.int64], prime: int) -> None:
        values = np.asarray(factors, dtype=np.int64)
        self.value: Signed = np.where(values > prime // 2, values - prime, values)
        self.quotient = self.value.astype(np.float64) / prime


class PrimeField:
    """Polynomials of Z_p[X] / (X^N + 1), coefficient- or transform-wise.

    The negacyclic transform's output order is SEAL's: bit-reversed, from the smallest primitive
    2N-th root of unity. Products of transforms are products of polynomials.

    Parameters
    ----------
    degree : int
        Ring degree N, a power of two.
    prime : int
        p = 1 (mod 2N), at most `MAX_PRIME_BITS` bits.
    """

    def __init__(self, degree: int, prime: int) -> None:
        if prime.bit_length() > MAX_PRIME_BITS or (prime - 1) % (2 * degree):
            raise ValueError(f"{prime} is no NTT prime of at most {MAX_PRIME_BITS} bits")
        self.degree = degree
        self.prime = prime
        self.bits = prime.bit_length()
        self._p = np.int64(prime)
        self._inverse = 1.0 / prime

    @cached_property
    def _root(self) -> int:
        return minimal_root(self.degree, self.prime)

    @cached_property
    def _forward(self) -> _Twiddles:
        powers = np.array(_powers(self._root, self.degree, self.prime), dtype=np.int64)
        return _Twiddles(powers[bit_reversed(self.degree)], self.prime)

    @cached_property
    def _backward(self) -> _Twiddles:
        """Inverse powers of the square of the root, for a cyclic transform."""
        base = pow(self._root, -2, self.prime)
        return _Twiddles(_powers(base, self.degree // 2, self.prime), self.prime)

    @cached_property
    def _untwist(self) -> _Twiddles:
        base = pow(self._root, -1, self.prime)
        scale = pow(self.degree, -1, self.prime)
        powers = _powers(base, self.degree, self.prime)
        return _Twiddles([power * scale % self.prime for power in powers], self.prime)

    @cached_property
    def _reduce_before(self) -> frozenset[int]:
        """Levels before which signed values must be reduced to keep quotients exact."""
        levels, bound = set(), 1.0
        for level in range(self.degree.bit_length() - 1):
            if self._grown(bound) * self.prime > _EXACT:
                levels.add(level)
                bound = 0.75
            bound = self._grown(bound)
        return frozenset(levels)

    def _grown(self, bound: float) -> float:
        """Bound, in units of p, after one butterfly: half a p plus the quotient's error."""
        return bound + 0.5 + 1.5 * bound * self.prime * 2.0**-53

    def add(self, a: Residues, b: Residues) -> Residues:
        """Return a + b."""
        total = a + b
        least: Residues = np.minimum(total, total - np.uint64(self.prime))
        return least

    def sub(self, a: Residues, b: Residues) -> Residues:
        """Return a - b."""
        difference = a - b
        least: Residues = np.minimum(difference, difference + np.uint64(self.prime))
        return least

    def neg(self, a: Residues) -> Residues:
        """Return -a."""
        return np.where(a == 0, a, np.uint64(self.prime) - a)

    def mul(self, a: Residues, b: Residues) -> Residues:
        """Return the entrywise product; `b` broadcasts against `a`."""
        estimate = a.astype(np.float64)
        estimate *= b.astype(np.float64) * self._inverse
        np.rint(estimate, out=estimate)
        product: Signed = (a * b).view(np.int64)
        product -= estimate.astype(np.int64) * self._p
        return self._lift(product)

    def mul_scalar(self, a: Residues, factor: int) -> Residues:
        """Return `a` times an integer."""
        return self.mul(a, np.array(factor % self.prime, dtype=np.uint64))

    def inverse(self, a: Residues) -> Residues:
        """Return 1 / a entrywise, by Fermat's little theorem; 0 stays 0."""
        result = np.ones_like(a)
        power, exponent = a.copy(), self.prime - 2
        while exponent:
            if exponent & 1:
                result = self.mul(result, power)
            power = self.mul(power, power)
            exponent >>= 1
        return result

    def from_signed(self, values: Signed) -> Residues:
        """Return the residues of signed integers."""
        return np.mod(values, self._p).view(np.uint64)

    def centred(self, a: Residues) -> Signed:
        """Return the representatives in (-p/2, p/2]."""
        signed = a.astype(np.int64)
        return np.where(signed > self.prime // 2, signed - self._p, signed)

    def total(self, a: Residues) -> int:
        """Return the sum of all entries modulo p."""
        low = int((a & np.uint64(0xFFFFFFFF)).sum(dtype=np.uint64))
        return (low + (int((a >> np.uint64(32)).sum(dtype=np.uint64)) << 32)) % self.prime

    def _lift(self, signed: Signed) -> Residues:
        """Map (-p, p) to [0, p), in place."""
        signed += (signed >> np.int64(63)) & self._p
        return signed.view(np.uint64)

    def _fold(self, x: Signed) -> None:
        """Reduce signed values of several p to (-p, p), in place."""
        quotient = x.astype(np.float64)
        quotient *= self._inverse
        np.rint(quotient, out=quotient)
        x -= quotient.astype(np.int64) * self._p

    def ntt(self, a: Residues) -> Residues:
        """Return the negacyclic transforms of coefficient vectors (..., N)."""
        return self._in_blocks(a, self._transform)

    def intt(self, a: Residues) -> Residues:
        """Return the coefficient vectors of transforms (..., N)."""
        return self._in_blocks(a, self._untransform)

    def _in_blocks(self, a: Residues, function: object) -> Residues:
        assert callable(function)
        rows = a.reshape(-1, self.degree)
        out = np.empty(rows.shape, dtype=np.uint64)
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            # Polynomials side by side: every butterfly then runs over contiguous memory.
            x = np.array(part.T, order="C", copy=True).view(np.int64)
            function(x)
            self._fold(x)
            out[start : start + _ROWS] = self._lift(x).T
        return out.reshape(a.shape)

    def _transform(self, x: Signed) -> None:
        size, blocks = self.degree, 1
        twiddles, scratch = self._forward, _Scratch(x)
        for level in range(size.bit_length() - 1):
            if level in self._reduce_before:
                self._fold(x)
            pairs = x.reshape(blocks, 2, -1)
            factors = slice(blocks, 2 * blocks)
            _butterfly(
                pairs[:, 0],
                pairs[:, 1],
                twiddles.value[factors, None],
                twiddles.quotient[factors, None],
                self._p,
                scratch,
            )
            blocks *= 2

    def _untransform(self, x: Signed) -> None:
        size, width = self.degree, 1
        twiddles, scratch = self._backward, _Scratch(x)
        for level in range(size.bit_length() - 1):
            if level in self._reduce_before:
                self._fold(x)
            pairs = x.reshape(size // (2 * width), 2, width, -1)
            factors = slice(None, None, size // (2 * width))
            _butterfly(
                pairs[:, 0],
                pairs[:, 1],
                twiddles.value[factors, None],
                twiddles.quotient[factors, None],
                self._p,
                scratch,
            )
            width *= 2
        self._fold(x)
        last = self._untwist
        quotient = x * last.quotient[:, None]
        np.rint(quotient, out=quotient)
        x *= last.value[:, None]
        x -= quotient.astype(np.int64) * self._p


class _Scratch:
    """Buffers of half a block, reused by all levels of a transform."""

    def __init__(self, x: Signed) -> None:
        half = x.size // 2
        self.quotient = np.empty(half, dtype=np.float64)
        self.rounded = np.empty(half, dtype=np.int64)
        self.product = np.empty(half, dtype=np.int64)


def _butterfly(
    u: Signed,
    v: Signed,
    factor: Signed,
    quotient: NDArray[np.float64],
    prime: np.int64,
    scratch: _Scratch,
) -> None:
    """Replace (u, v) by (u + w v, u - w v), the product reduced to about p/2 in size."""
    estimate = scratch.quotient.reshape(v.shape)
    rounded = scratch.rounded.reshape(v.shape)
    product = scratch.product.reshape(v.shape)
    np.copyto(estimate, v)
    estimate *= quotient
    np.rint(estimate, out=estimate)
    np.copyto(rounded, estimate, casting="unsafe")
    rounded *= prime
    np.multiply(v, factor, out=product)
    product -= rounded
    np.subtract(u, product, out=v)
    u += product


@lru_cache(maxsize=32)
def prime_field(degree: int, prime: int) -> PrimeField:
    """Return the field of one prime; its tables are built once per process."""
    return PrimeField(degree, prime)


def bits_of(number: int) -> float:
    """Return log2 of a positive integer of any size."""
    shift = max(number.bit_length() - 64, 0)
    return shift + math.log2(number >> shift)
