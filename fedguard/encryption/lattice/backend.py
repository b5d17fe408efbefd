"""What a backend does, and how one is chosen.

A backend makes RLWE encryptions of zero under a given public key; everything else (keys, shares,
fusion, packing) is common code. TenSEAL is the engine; NumPy is the reference it is tested
against, and takes its place where TenSEAL cannot be used.
"""

from __future__ import annotations

import warnings
from typing import Literal, Protocol

from fedguard.encryption.errors import BackendUnavailableError
from fedguard.encryption.lattice.modular import Residues
from fedguard.encryption.lattice.profiles import Profile
from fedguard.encryption.lattice.sampling import RandomSource, SystemRandom
from fedguard.errors import ConfigurationError, check_choice

BackendName = Literal["auto", "tenseal", "numpy"]


class Backend(Protocol):
    """Encrypts zero."""

    name: str
    special_prime: bool
    """Whether ciphertexts are made modulo the key's modulus and then rounded, as SEAL does."""

    def encrypt_zero(
        self, profile: Profile, b: Residues, a: Residues, count: int, source: RandomSource
    ) -> Residues:
        """Return encryptions of zero.

        Parameters
        ----------
        profile : Profile
            Ring and moduli.
        b, a : ndarray
            (key limbs, 1, N) public key: ``b + a s`` is small.
        count : int
            Number of ciphertexts.
        source : RandomSource
            Where randomness comes from, for backends that do not bring their own.

        Returns
        -------
        ndarray
            (2, data limbs, count, N) transforms (c0, c1) with ``c0 + c1 s`` small.
        """
        ...


def make_backend(name: BackendName, source: RandomSource) -> Backend:
    """Return a backend that works here.

    Parameters
    ----------
    name : str
        ``"tenseal"``, ``"numpy"``, or ``"auto"``: TenSEAL, or NumPy with a warning where TenSEAL
        is missing or its byte format has changed.
    source : RandomSource
        TenSEAL brings its own randomness, so only the NumPy backend can be made reproducible.

    Raises
    ------
    ConfigurationError
        If the backend is unknown, or cannot follow a reproducible source.
    BackendUnavailableError
        If TenSEAL was asked for and cannot be used.
    """
    from fedguard.encryption.lattice.backend_numpy import NumpyBackend

    check_choice("backend", name, ("auto", "tenseal", "numpy"))
    if not isinstance(source, SystemRandom):
        if name == "tenseal":
            raise ConfigurationError(
                "backend", name, "numpy with insecure_seed: TenSEAL's randomness cannot be seeded"
            )
        return NumpyBackend()
    if name == "numpy":
        return NumpyBackend()
    try:
        from fedguard.encryption.lattice.backend_tenseal import TensealBackend

        return TensealBackend()
    except BackendUnavailableError as error:
        if name == "tenseal":
            raise
        warnings.warn(f"encrypting with NumPy: {error}", RuntimeWarning, stacklevel=2)
        return NumpyBackend()
