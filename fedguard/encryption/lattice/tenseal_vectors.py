"""Plain CKKS on TenSEAL's own vectors: parameters, encryption, addition, decryption.

What travels are residues and nothing else, packed to the bit and checked as they are read. Scale,
level, parameters and size, which SEAL would take from whoever wrote an object, stand in a template
that each client makes itself; no byte of a message reaches native code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from fedguard.encryption.errors import BackendUnavailableError, ProtocolError
from fedguard.encryption.lattice.backend_tenseal import make_context
from fedguard.encryption.lattice.modular import Residues, Signed, ntt_primes
from fedguard.encryption.lattice.packing import Values
from fedguard.encryption.lattice.ring import Ring, ring
from fedguard.encryption.lattice.sampling import (
    TERNARY_VARIANCE,
    RandomSource,
    SystemRandom,
    centred_binomial,
    ternary,
)
from fedguard.encryption.lattice.seal_format import (
    SealCiphertext,
    TensealContext,
    vector_ciphertexts,
    with_ciphertexts,
)
from fedguard.encryption.lattice.wire import pack_bits, unpack_bits


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
    def primes(self) -> tuple[int, ...]:
        """Primes of a ciphertext's modulus."""
        return ntt_primes(self.ring_degree, self.key_bits)[: self.limbs]

    @cached_property
    def key_ring(self) -> Ring:
        """Ring of the keys, where all primes have at most 50 bits."""
        return ring(self.ring_degree, ntt_primes(self.ring_degree, self.key_bits))

    def count(self, size: int) -> int:
        """Return how many ciphertexts hold `size` values."""
        return -(-size // self.slots)

    def bytes_of(self, count: int) -> int:
        """Return how many bytes `count` ciphertexts take."""
        return sum(2 * count * self.ring_degree * bits // 8 for bits in self.key_bits[: self.limbs])

    @cached_property
    def ring(self) -> Ring:
        """Ring of the ciphertexts, where its primes have at most 50 bits."""
        return ring(self.ring_degree, self.primes)


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


def make_secret(recipe: Recipe, source: RandomSource) -> bytes:
    """Return a fresh secret key: N coefficients in {-1, 0, 1}, one byte each."""
    return ternary(source, (recipe.ring_degree,)).astype(np.int8).tobytes()


def read_secret(recipe: Recipe, data: bytes) -> Signed:
    """Return the (N,) coefficients of a secret key; raises `ProtocolError` if it is none."""
    values = np.frombuffer(data, dtype=np.int8).astype(np.int64)
    if values.shape != (recipe.ring_degree,) or np.abs(values).max() > 1:
        raise ProtocolError("the shared key is not a polynomial of small coefficients")
    return values


@lru_cache(maxsize=16)
def key_pair_of(secret: bytes, clients: int) -> Any:
    """Return a TenSEAL context of the guarded recipe around a secret key.

    Who shares a secret draws a public key of its own for it, so no public key travels.

    Parameters
    ----------
    secret : bytes
        See `make_secret`.
    clients : int
        Largest number of ciphertexts in a sum, which decides the scale.
    """
    import tenseal as ts

    coefficients = read_secret(CHAIN, secret)
    keys, source = CHAIN.key_ring, SystemRandom()
    s = keys.embed(coefficients[None])
    a = keys.uniform(source.bytes(32), 1)
    error = keys.embed(centred_binomial(source, (1, CHAIN.ring_degree)))
    template = TensealContext.load(private_bytes(make_key_pair(CHAIN, clients)))
    public = template.public_key
    public.data = np.stack([keys.sub(error, keys.mul(a, s))[:, 0], a[:, 0]])
    return ts.context_from(template.with_keys(public, s[:, 0], scale_of(CHAIN, clients)))


def encrypt_vector(context: Any, recipe: Recipe, values: Values) -> Residues:
    """Return the polynomials (limbs, 2 count, N) of an encrypted vector: c0, c1, c0, c1, ..."""
    import tenseal as ts

    padded = np.zeros(recipe.count(values.size) * recipe.slots)
    padded[: values.size] = values
    rows = padded.reshape(-1, recipe.slots)
    return _polynomials(recipe, [ts.ckks_vector(context, row).serialize() for row in rows])


def _polynomials(recipe: Recipe, blobs: list[bytes]) -> Residues:
    found = [ciphertext.data for blob in blobs for ciphertext in vector_ciphertexts(blob)]
    shape = (2, recipe.limbs, recipe.ring_degree)
    if len(found) != len(blobs) or any(data.shape != shape for data in found):
        raise BackendUnavailableError("TenSEAL returned a ciphertext of another shape")
    return np.concatenate(found).swapaxes(0, 1)


def add_vectors(recipe: Recipe, a: Residues, b: Residues) -> Residues:
    """Return the sum of two encrypted vectors; needs no key and no library."""
    primes = np.array(recipe.primes, dtype=np.uint64)[:, None, None]
    total: Residues = (a + b) % primes
    return total


def subtract_vectors(recipe: Recipe, a: Residues, b: Residues) -> Residues:
    """Return the difference of two encrypted vectors."""
    primes = np.array(recipe.primes, dtype=np.uint64)[:, None, None]
    difference: Residues = (a + (primes - b)) % primes
    return difference


def decrypt_vector(context: Any, recipe: Recipe, polynomials: Residues) -> Values:
    """Return the values of an encrypted vector; needs the secret context.

    Whatever SEAL reads beside the residues comes from a ciphertext of this context's own.
    """
    import tenseal as ts

    blob = _own_vector(context, recipe.slots)
    template = vector_ciphertexts(blob)[0]
    values = []
    for start in range(0, polynomials.shape[1], 2):
        data = polynomials[:, start : start + 2].swapaxes(0, 1)
        written = with_ciphertexts(blob, [_filled(template, data)])
        values.append(ts.ckks_vector_from(context, written).decrypt())
    return np.concatenate(np.array(values))


@lru_cache(maxsize=16)
def _own_vector(context: Any, slots: int) -> bytes:
    """Return a vector of this context's own, for all that is not residues."""
    import tenseal as ts

    blob: bytes = ts.ckks_vector(context, [0.0] * slots).serialize()
    return blob


def _filled(template: SealCiphertext, data: Residues) -> SealCiphertext:
    return SealCiphertext(
        template.parms_id,
        template.is_transform,
        template.scale,
        template.extra,
        template.version,
        data,
    )


def write_vector(recipe: Recipe, polynomials: Residues) -> bytes:
    """Return an encrypted vector as bytes: its residues, packed to the bit, prime by prime."""
    return b"".join(
        pack_bits(np.ascontiguousarray(limb).reshape(-1), bits)
        for limb, bits in zip(polynomials, recipe.key_bits, strict=False)
    )


def read_vector(recipe: Recipe, count: int, data: bytes) -> Residues:
    """Return the polynomials (limbs, 2 count, N) of a vector of `count` ciphertexts, checked.

    Raises
    ------
    ProtocolError
        If the bytes are not exactly that many residues below their primes.
    """
    if count < 1 or len(data) != recipe.bytes_of(count):
        raise ProtocolError(f"{len(data)} bytes are not {count} ciphertexts of these parameters")
    out = np.empty((recipe.limbs, 2 * count, recipe.ring_degree), dtype=np.uint64)
    view, size = memoryview(data), 2 * count * recipe.ring_degree
    for limb, prime in enumerate(recipe.primes):
        bits = recipe.key_bits[limb]
        residues = unpack_bits(view[: size * bits // 8], bits, size)
        if int(residues.max()) >= prime:
            raise ProtocolError("a residue of a ciphertext is not below its prime")
        out[limb] = residues.reshape(out.shape[1:])
        view = view[size * bits // 8 :]
    return out
