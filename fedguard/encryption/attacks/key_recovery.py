"""Compute the secret key of plain CKKS from ciphertexts and their decryptions."""

from __future__ import annotations

import numpy as np

from fedguard.encryption.attacks.outcome import AttackOutcome
from fedguard.encryption.lattice import tenseal_vectors as vectors
from fedguard.encryption.lattice.modular import (
    PrimeField,
    Residues,
    Signed,
    ntt_primes,
    prime_field,
)
from fedguard.encryption.lattice.packing import Values, slots_to_coefficients
from fedguard.encryption.lattice.seal_format import TensealContext
from fedguard.encryption.lattice.tenseal_vectors import Recipe
from fedguard.randomness import SERVER, numpy_generator

NAME = "key-recovery"
CLIENTS = 3


def key_recovery(guarded: bool) -> AttackOutcome:
    """Solve for the shared secret key, given sums and what `decrypt` returned for them.

    Li and Micciancio, "On the Security of Homomorphic Encryption on Approximate Numbers",
    EUROCRYPT 2021, adapted to TenSEAL, which returns real parts only. A decryption gives
    ``h = m + m(1/X)`` for ``m = c0 + c1 s``, half of what is needed. Two ciphertexts give, for
    each pair of slots k, l with inverse roots, ``c1_k s_k + c1_l s_l = h_k - c0_k - c0_l`` twice:
    two equations, two unknowns. One prime of the chain is enough, since the key is small.

    The naive mode is the usual recipe, releases without noise; the guarded one adds flooding.
    """
    recipe = vectors.CHAIN if guarded else vectors.STOCK
    context = vectors.make_key_pair(recipe, CLIENTS)
    stream = numpy_generator(0, 1, SERVER, "attacked sums")
    encrypted = [
        vectors.encrypt_vector(context, recipe, stream.normal(0, 0.05, 2 * recipe.slots))
        for _ in range(CLIENTS)
    ]
    total = encrypted[0]
    for other in encrypted[1:]:
        total = vectors.add_vectors(recipe, total, other)
    released = vectors.decrypt_vector(context, recipe, total)
    if guarded:
        released = released + stream.normal(0, vectors.flooding_std(CLIENTS), released.size)
    limb = 0 if guarded else 1
    prime = ntt_primes_of(recipe)[limb]
    field = prime_field(recipe.ring_degree, prime)
    polynomials = total[limb]
    scale = vectors.scale_of(recipe, CLIENTS)
    found = solve(field, polynomials[0::2], polynomials[1::2], released, scale)
    secret = TensealContext.load(vectors.private_bytes(context)).secret_key(recipe.ring_degree)
    truth = field.centred(field.intt(secret[limb]))
    match = float(np.mean(found == truth))
    return AttackOutcome(
        NAME, guarded, match > 0.99, f"{match:.1%} of the secret key's coefficients recovered"
    )


def ntt_primes_of(recipe: Recipe) -> tuple[int, ...]:
    """Return the primes of a recipe's ciphertexts."""
    return ntt_primes(recipe.ring_degree, recipe.key_bits)[: recipe.limbs]


def solve(field: PrimeField, c0: Residues, c1: Residues, released: Values, scale: float) -> Signed:
    """Return the (N,) coefficients of the key that fits two ciphertexts and their decryptions.

    Parameters
    ----------
    field : PrimeField
        One prime of the ciphertexts.
    c0, c1 : ndarray
        (2, N) transforms of the two ciphertexts.
    released : ndarray
        (N,) the floats that were released for them, N/2 each.
    scale : float
        CKKS scale.
    """
    degree = field.degree
    doubled = 2 * slots_to_coefficients(released.reshape(2, degree // 2), degree) * scale
    h = field.ntt(_residues(field, doubled))
    mirror = _mirrored_slots(field)
    right = [field.sub(field.sub(h[k], c0[k]), c0[k][mirror]) for k in range(2)]
    crossed = [c1[k][mirror] for k in range(2)]
    determinant = field.sub(field.mul(c1[0], crossed[1]), field.mul(c1[1], crossed[0]))
    numerator = field.sub(field.mul(right[0], crossed[1]), field.mul(right[1], crossed[0]))
    return field.centred(field.intt(field.mul(numerator, field.inverse(determinant))))


def _residues(field: PrimeField, values: Values) -> Residues:
    """Return the residues of rounded values that may exceed 64 bits."""
    wide = [int(value) % field.prime for value in np.rint(values).reshape(-1)]
    return np.array(wide, dtype=np.uint64).reshape(values.shape)


def _mirrored_slots(field: PrimeField) -> np.ndarray:
    """Return for every transform slot the slot of the inverse root, as X to 1/X permutes them."""
    identity = np.zeros(field.degree, dtype=np.uint64)
    identity[1] = 1
    roots = field.ntt(identity)
    inverse = field.inverse(roots)
    order = np.argsort(roots)
    return order[np.searchsorted(roots[order], inverse)]
