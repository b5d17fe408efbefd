"""The default backend: TenSEAL encrypts under a public key that we hand it as bytes."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from fedguard.encryption.errors import BackendUnavailableError
from fedguard.encryption.lattice.modular import Residues
from fedguard.encryption.lattice.profiles import Profile, profile
from fedguard.encryption.lattice.sampling import (
    RandomSource,
    SystemRandom,
    centred_binomial,
    ternary,
)
from fedguard.encryption.lattice.seal_format import TensealContext, vector_ciphertexts

TENSEAL_VERSION = "0.3.18"
_SCALE = 2.0**20
"""Scale of the zeros that TenSEAL encodes; any that fits, since zero has no precision."""


class TensealBackend:
    """Let TenSEAL encrypt zero vectors under the joint key, and take its ciphertexts apart.

    TenSEAL encrypts modulo the whole key modulus and rounds the special prime away; it draws all
    randomness itself, from SEAL's generator seeded by the system.

    Raises
    ------
    BackendUnavailableError
        If TenSEAL is not installed, is not the version whose bytes are known, or fails the
        self-test.
    """

    name = "tenseal"
    special_prime = True

    def __init__(self) -> None:
        self_test()

    def encrypt_zero(
        self, profile: Profile, b: Residues, a: Residues, count: int, source: RandomSource
    ) -> Residues:
        """Return encryptions of zero; see `Backend.encrypt_zero`."""
        import tenseal as ts

        key = np.stack([b[:, 0], a[:, 0]])
        context = ts.context_from(_context_with(profile, key))
        zeros = [0.0] * (profile.ring_degree // 2)
        shape = (2, len(profile.data_ring), profile.ring_degree)
        out = np.empty((*shape[:2], count, profile.ring_degree), dtype=np.uint64)
        for position in range(count):
            found = vector_ciphertexts(ts.ckks_vector(context, zeros).serialize())
            if len(found) != 1 or found[0].data.shape != shape:
                raise BackendUnavailableError("TenSEAL returned a ciphertext of another shape")
            out[:, :, position] = found[0].data
        return out


@lru_cache(maxsize=8)
def _template(ring_degree: int, key_bits: tuple[int, ...]) -> TensealContext:
    """Return a context with these parameters; its own key is replaced before every use."""
    context = make_context(ring_degree, key_bits, _SCALE)
    return TensealContext.load(public_bytes(context))


def make_context(ring_degree: int, key_bits: tuple[int, ...], scale: float) -> Any:
    """Return a fresh TenSEAL CKKS context with a key pair and no rotation keys."""
    import tenseal as ts

    context = ts.context(ts.SCHEME_TYPE.CKKS, ring_degree, coeff_mod_bit_sizes=list(key_bits))
    context.global_scale = scale
    return context


def public_bytes(context: Any) -> bytes:
    """Serialise a context without its secret key."""
    blob: bytes = context.serialize(
        save_public_key=True, save_secret_key=False, save_galois_keys=False, save_relin_keys=False
    )
    return blob


def _context_with(profile: Profile, key: Residues) -> bytes:
    template = _template(profile.ring_degree, profile.key_bits)
    public = template.public_key
    public.data = key
    return template.with_public_key(public, _SCALE)


@lru_cache(maxsize=1)
def self_test() -> None:
    """Encrypt zero under the sum of two keys and decrypt it with the sum of their secrets.

    Raises
    ------
    BackendUnavailableError
        If anything differs from what is expected.
    """
    try:
        found = version("tenseal")
    except PackageNotFoundError as error:
        raise BackendUnavailableError(
            "TenSEAL is not installed; pip install 'fedguard[encryption]'"
        ) from error
    if found != TENSEAL_VERSION:
        raise BackendUnavailableError(
            f"TenSEAL {found} is installed, but the bytes of {TENSEAL_VERSION} are known; "
            f"pip install tenseal=={TENSEAL_VERSION}, or choose backend numpy"
        )
    try:
        noise = _two_key_noise(profile("default"))
    except BackendUnavailableError:
        raise
    except Exception as error:
        raise BackendUnavailableError(f"TenSEAL's self-test failed: {error}") from error
    if not 0 < noise < 1 << 16:
        raise BackendUnavailableError(
            "TenSEAL's self-test failed: an encryption under a joint key does not decrypt"
        )


def _two_key_noise(parameters: Profile) -> int:
    """Return the largest coefficient of c0 + c1 (s_1 + s_2) for an encryption of zero."""
    source = SystemRandom()
    ring, shape = parameters.key_ring, (1, parameters.ring_degree)
    _check_primes(parameters)
    a = ring.uniform(b"self-test", 1)
    secret = ring.embed(ternary(source, shape) + ternary(source, shape))
    b = ring.neg(ring.add(ring.mul(a, secret), ring.embed(centred_binomial(source, shape))))
    backend = object.__new__(TensealBackend)
    c0, c1 = backend.encrypt_zero(parameters, b, a, 1, source)
    data = parameters.data_ring
    opened = data.intt(data.add(c0, data.mul(c1, secret[: len(data)])))
    noises = [field.centred(limb) for field, limb in zip(data.fields, opened, strict=True)]
    if any((noise != noises[0]).any() for noise in noises):
        return 0
    return int(np.abs(noises[0]).max())


def _check_primes(parameters: Profile) -> None:
    from tenseal import sealapi

    moduli = sealapi.CoeffModulus.Create(parameters.ring_degree, list(parameters.key_bits))
    if tuple(modulus.value() for modulus in moduli) != parameters.key_ring.primes:
        raise BackendUnavailableError("TenSEAL chooses other primes than expected")
