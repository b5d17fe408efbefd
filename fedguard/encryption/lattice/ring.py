"""The ring Z_Q[X] / (X^N + 1) in residue form: one prime field per factor of Q.

An array of polynomials is uint64 of shape (limbs, count, N). Unless a name says ``coefficients``
it holds transforms, in which polynomial products are entrywise.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from fedguard.encryption.lattice.modular import PrimeField, Residues, Signed, prime_field


class Ring:
    """Polynomials modulo several NTT primes at once.

    Parameters
    ----------
    degree : int
        Ring degree N, a power of two.
    primes : sequence of int
        Factors of the modulus Q.
    """

    def __init__(self, degree: int, primes: Sequence[int]) -> None:
        self.degree = degree
        self.primes = tuple(primes)
        self.fields: tuple[PrimeField, ...] = tuple(prime_field(degree, p) for p in self.primes)
        self.modulus = math.prod(self.primes)

    def __len__(self) -> int:
        return len(self.primes)

    def prefix(self, limbs: int) -> Ring:
        """Return the ring of the first `limbs` primes."""
        return ring(self.degree, self.primes[:limbs])

    def zeros(self, count: int) -> Residues:
        """Return `count` zero polynomials."""
        return np.zeros((len(self), count, self.degree), dtype=np.uint64)

    def _each(self, operation: str, *operands: Residues) -> Residues:
        return np.stack(
            [
                getattr(field, operation)(*(operand[limb] for operand in operands))
                for limb, field in enumerate(self.fields)
            ]
        )

    def add(self, a: Residues, b: Residues) -> Residues:
        """Return a + b; `b` broadcasts over the count."""
        return self._each("add", a, b)

    def sub(self, a: Residues, b: Residues) -> Residues:
        """Return a - b."""
        return self._each("sub", a, b)

    def neg(self, a: Residues) -> Residues:
        """Return -a."""
        return self._each("neg", a)

    def mul(self, a: Residues, b: Residues) -> Residues:
        """Return the entrywise product, which is the polynomial product of transforms."""
        return self._each("mul", a, b)

    def ntt(self, coefficients: Residues) -> Residues:
        """Return the transforms of coefficient vectors."""
        return self._each("ntt", coefficients)

    def intt(self, a: Residues) -> Residues:
        """Return the coefficient vectors of transforms."""
        return self._each("intt", a)

    def from_signed(self, values: Signed) -> Residues:
        """Return (limbs, ...) residues of signed integer coefficients (...)."""
        return np.stack([field.from_signed(values) for field in self.fields])

    def embed(self, values: Signed) -> Residues:
        """Return the transforms of polynomials with small signed coefficients (count, N)."""
        return self.ntt(self.from_signed(values))

    def drop_to_first(self, coefficients: Residues) -> Residues:
        """Return round(x q_0 / Q) modulo q_0, (count, N), for coefficient vectors x modulo Q.

        One limb is dropped after the other; each rounding is off by at most 1/2.
        """
        limbs = [coefficients[limb] for limb in range(len(self))]
        while len(limbs) > 1:
            last = len(limbs) - 1
            top = self.fields[last].centred(limbs.pop())
            limbs = [
                field.mul_scalar(
                    field.sub(x, field.from_signed(top)), pow(self.primes[last], -1, field.prime)
                )
                for field, x in zip(self.fields, limbs, strict=False)
            ]
        first: Residues = limbs[0]
        return first

    def uniform(self, seed: bytes, count: int) -> Residues:
        """Expand a public seed into `count` uniform polynomials (SHAKE-256, rejection sampling).

        Parameters
        ----------
        seed : bytes
            Any; the label of the use belongs into it.
        count : int
            Number of polynomials.
        """
        return np.stack(
            [
                _uniform_residues(seed + bytes([limb]), count * self.degree, field).reshape(
                    count, self.degree
                )
                for limb, field in enumerate(self.fields)
            ]
        )


def _uniform_residues(seed: bytes, size: int, field: PrimeField) -> Residues:
    mask = np.uint64((1 << field.bits) - 1)
    found = np.empty(0, dtype=np.uint64)
    block = 0
    while found.size < size:
        wanted = 8 * (size - found.size + size // 8 + 64)
        stream = hashlib.shake_256(seed + block.to_bytes(4, "little")).digest(wanted)
        words = np.frombuffer(stream, dtype="<u8") & mask
        found = np.concatenate([found, words[words < np.uint64(field.prime)]])
        block += 1
    return found[:size]


@lru_cache(maxsize=32)
def ring(degree: int, primes: tuple[int, ...]) -> Ring:
    """Return the ring of a degree and its primes; built once per process."""
    return Ring(degree, primes)
