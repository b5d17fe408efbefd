"""Plain CKKS on TenSEAL's own vectors: parameters, encryption, addition, decryption."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from fedguard.encryption.errors import ProtocolError
from fedguard.encryption.lattice.backend_tenseal import make_context
from fedguard.encryption.lattice.modular import Residues, ntt_primes
from fedguard.encryption.lattice.packing import Values
from fedguard.encryption.lattice.ring import Ring, ring
from fedguard.encryption.lattice.sampling import TERNARY_VARIANCE
from fedguard.encryption.lattice.seal_format import vector_ciphertexts


@dataclass(frozen=True)
class Recipe:
    """Parameters of plain CKKS.

    Attributes
    ----------
    ring_degree : int
        N; a ciphertext holds N / 2 values.
    key_bits : tuple of int
        Bit lengths of the primes, the special one last.
    clip : float
        Values are clipped to [-clip, clip].
    """

    ring_degree: int
    key_bits: tuple[int, ...]
    clip: float = 8.0

    @property
    def slots(self) -> int:
        """Values per ciphertext."""
        return self.ring_degree // 2

    @property
    def limbs(self) -> int:
        """Primes of a ciphertext's modulus."""
        return len(self.key_bits) - 1

    @cached_property
    def ring(self) -> Ring:
        """Ring of the ciphertexts, where its primes have at most 50 bits."""
        return ring(self.ring_degree, ntt_primes(self.ring_degree, self.key_bits)[: self.limbs])


CHAIN = Recipe(4096, (42, 42, 25))
"""The guarded mode: as much room above the noise as 128-bit security at this ring degree leaves."""
STOCK = Recipe(8192, (60, 40, 40, 60))
"""What tutorials use, for the naive mode."""
STOCK_SCALE = 2.0**40
STATISTICAL_BITS = 64.0
"""lambda of the released sums, for `RELEASES` ciphertexts under one key."""
RELEASES = 1 << 15


def scale_of(recipe: Recipe, clients: int) -> float:
    """Return the CKKS scale: the recipe's, or the largest that leaves a sum of `clients` room."""
    if recipe == STOCK:
        return STOCK_SCALE
    room = CHAIN.ring.modulus / (4 * clients * CHAIN.clip)
    return math.ldexp(1.0, math.floor(math.log2(room)))


def flooding_std(clients: int) -> float:
    """Return the standard deviation of the noise that is added to released sums.

    ``2^(lambda/2) sqrt(12 tau) ||e||`` in slots, over the scale, with the error of a sum of
    `clients` fresh TenSEAL ciphertexts; see
    `Profile.statistical_bits`.
    """
    n = CHAIN.ring_degree
    coefficient = math.sqrt(clients * (n * TERNARY_VARIANCE + 1) / 12)
    norm = coefficient * math.sqrt(n) * math.sqrt(n / 2)
    factor = float(2.0 ** (STATISTICAL_BITS / 2)) * math.sqrt(12 * RELEASES)
    return factor * norm / scale_of(CHAIN, clients)


def make_key_pair(recipe: Recipe, clients: int) -> Any:
    """Return a TenSEAL context with a fresh key pair for sums of `clients`."""
    return make_context(recipe.ring_degree, recipe.key_bits, scale_of(recipe, clients))


def private_bytes(context: Any) -> bytes:
    """Serialise a context with its secret key; for clients alone."""
    blob: bytes = context.serialize(
        save_public_key=True, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
    )
    return blob


def encrypt_vector(context: Any, values: Values, slots: int) -> list[bytes]:
    """Return one serialised TenSEAL vector per `slots` values."""
    import tenseal as ts

    padded = np.zeros(-(-values.size // slots) * slots)
    padded[: values.size] = values
    return [ts.ckks_vector(context, row).serialize() for row in padded.reshape(-1, slots)]


def add_vectors(context: Any, vectors: list[list[bytes]]) -> list[bytes]:
    """Return the sum of clients' encrypted vectors; needs the public context alone."""
    import tenseal as ts

    totals = []
    for column in zip(*vectors, strict=True):
        total = ts.ckks_vector_from(context, column[0])
        for blob in column[1:]:
            total += ts.ckks_vector_from(context, blob)
        totals.append(total.serialize())
    return totals


def decrypt_vector(context: Any, blobs: list[bytes]) -> Values:
    """Return the values of an encrypted vector; needs the secret context."""
    import tenseal as ts

    return np.concatenate([np.array(ts.ckks_vector_from(context, b).decrypt()) for b in blobs])


@lru_cache(maxsize=64)
def context_of(blob: bytes) -> Any:
    """Return the context of its bytes."""
    import tenseal as ts

    return ts.context_from(blob)


def polynomials_of(recipe: Recipe, blobs: list[bytes]) -> Residues:
    """Return all polynomials (limbs, 2 count, N) of serialised vectors, checked."""
    found = [ciphertext.data for blob in blobs for ciphertext in vector_ciphertexts(blob)]
    shape = (2, recipe.limbs, recipe.ring_degree)
    if len(found) != len(blobs) or any(data.shape != shape for data in found):
        raise ProtocolError("not a vector of ciphertexts with the agreed parameters")
    return np.concatenate(found).swapaxes(0, 1)
