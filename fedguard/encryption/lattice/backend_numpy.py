"""The reference backend: RLWE encryption written out in NumPy."""

from __future__ import annotations

import numpy as np

from fedguard.encryption.lattice.modular import Residues
from fedguard.encryption.lattice.profiles import Profile
from fedguard.encryption.lattice.sampling import RandomSource, centred_binomial, ternary

_BLOCK = 64
"""Ciphertexts made at a time."""


class NumpyBackend:
    """Encrypt directly modulo the data modulus: ``(v b + e_0, v a + e_1)``.

    The special prime of the key is not used, so the noise is about 2^4 times TenSEAL's, still far
    below the flooding.
    """

    name = "numpy"
    special_prime = False

    def encrypt_zero(
        self, profile: Profile, b: Residues, a: Residues, count: int, source: RandomSource
    ) -> Residues:
        """Return encryptions of zero; see `Backend.encrypt_zero`."""
        ring = profile.data_ring
        out = np.empty((2, len(ring), count, profile.ring_degree), dtype=np.uint64)
        for start in range(0, count, _BLOCK):
            size = min(_BLOCK, count - start)
            shape = (size, profile.ring_degree)
            v = ring.embed(ternary(source, shape))
            for position, key in enumerate((b, a)):
                error = ring.embed(centred_binomial(source, shape))
                masked = ring.add(ring.mul(v, key[: len(ring)]), error)
                out[position, :, start : start + size] = masked
        return out
