"""Real vectors to message polynomials and back: fixed point, packing, checksum.

Sums are all that federated averaging needs, so one value per coefficient is the default: N values
per ciphertext instead of the N/2 of CKKS slots, and noise that no transform amplifies.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fedguard.encryption.errors import ChecksumError
from fedguard.encryption.lattice.modular import PrimeField, Residues
from fedguard.encryption.lattice.profiles import Profile
from fedguard.errors import ConfigurationError, check_choice

Values = NDArray[np.float64]
PackingName = Literal["coefficients", "slots"]

_WINDOW = 8.0
"""Standard deviations within which a checksum must lie."""


class Packing(Protocol):
    """How a vector lies in message polynomials modulo q_0, for one cohort size."""

    @property
    def check_value(self) -> float:
        """What one message adds to each checksum."""
        ...

    @property
    def tolerance(self) -> float:
        """How far a checksum of an honest sum may be off."""
        ...

    def count(self, size: int) -> int:
        """Return how many polynomials hold `size` values."""
        ...

    def encode(self, values: Values) -> Residues:
        """Return (count, N) message polynomials of a clipped vector."""
        ...

    def decode(self, total: Residues, size: int, contributions: int) -> Values:
        """Return the `size` sums in the fused polynomials (count, N).

        Raises
        ------
        ChecksumError
            If the polynomials are not the sum of exactly `contributions` messages.
        """
        ...


def make_packing(name: PackingName, profile: Profile, clients: int) -> Packing:
    """Return the packing of a name for sums of at most `clients` messages.

    Raises
    ------
    ConfigurationError
        If the name is unknown or so large a sum would overflow or hide a missing share.
    """
    check_choice("packing", name, ("coefficients", "slots"))
    profile.check(clients)
    packing: Packing = (
        CoefficientPacking(profile, clients)
        if name == "coefficients"
        else SlotPacking(profile, clients)
    )
    if packing.check_value <= 2 * packing.tolerance:
        raise ConfigurationError(
            "clients", clients, "a smaller cohort or group: a missing share would go unnoticed"
        )
    return packing


@dataclass(frozen=True)
class CoefficientPacking:
    """N - 1 values per polynomial; the last coefficient holds a checksum.

    ``m_N-1 = kappa - sum_k rho_k m_k (mod q_0)`` with public random signs rho. The relation is
    linear, so the sum of K messages satisfies it with K kappa: a missing message moves it by
    kappa, a missing or wrong share makes it uniform, one altered coefficient shows as well.

    Parameters
    ----------
    profile : Profile
        Ring, moduli, clip.
    clients : int
        Cohort size, which decides the scale.
    """

    profile: Profile
    clients: int

    @property
    def field(self) -> PrimeField:
        """The field of q_0."""
        return self.profile.data_ring.fields[0]

    @property
    def scale(self) -> int:
        """Fixed-point scale."""
        return self.profile.scale(self.clients)

    @property
    def check_value(self) -> int:
        """The constant kappa."""
        return self.profile.message_modulus // (4 * self.clients)

    @property
    def tolerance(self) -> float:
        """How far the checksum of an honest sum may be off."""
        return _WINDOW * self.profile.sum_noise(self.clients) * math.sqrt(self.profile.ring_degree)

    def count(self, size: int) -> int:
        """Return how many polynomials hold `size` values."""
        return -(-size // (self.profile.ring_degree - 1))

    def encode(self, values: Values) -> Residues:
        """Return (count, N) message polynomials; see `Packing.encode`."""
        width = self.profile.ring_degree - 1
        count = self.count(values.size)
        integers = np.zeros(count * width, dtype=np.int64)
        integers[: values.size] = np.rint(values * self.scale)
        rows = integers.reshape(count, width)
        polynomials = np.empty((count, width + 1), dtype=np.int64)
        polynomials[:, :width] = rows
        # At most N clip scale < N q_0 / 2, far from the end of int64.
        polynomials[:, width] = self.check_value - rows @ self._signs
        return self.field.from_signed(polynomials)

    def decode(self, total: Residues, size: int, contributions: int) -> Values:
        """Return the sums; see `Packing.decode`."""
        values = self.field.centred(total)
        relation = values[:, -1] + values[:, :-1] @ self._signs
        expected = np.int64(contributions * self.check_value)
        residual = self.field.centred(self.field.from_signed(relation - expected))
        _raise_if_off(np.abs(residual).astype(np.float64), self.tolerance)
        return values[:, :-1].reshape(-1)[:size].astype(np.float64) / self.scale

    @property
    def _signs(self) -> NDArray[np.int64]:
        return _public_signs(self.profile.ring_degree - 1)


@dataclass(frozen=True)
class SlotPacking:
    """N/2 - 1 values per polynomial in the real slots of CKKS; the last slot holds a constant.

    Slots are TenSEAL's: the value of slot j is the polynomial at zeta^(3^j). Twice the ciphertexts
    of `CoefficientPacking` and sqrt(N) times its error; for work that goes on in CKKS.

    Parameters
    ----------
    profile : Profile
        Ring, moduli, clip.
    clients : int
        Cohort size, which decides the scale.
    """

    profile: Profile
    clients: int

    @property
    def scale(self) -> int:
        """Fixed-point scale."""
        return self.profile.scale(self.clients)

    @property
    def check_value(self) -> float:
        """The constant in the last slot."""
        return self.profile.clip / 2

    @property
    def tolerance(self) -> float:
        """How far the checksum of an honest sum may be off; below half the constant, always."""
        noise = self.profile.sum_noise(self.clients) * math.sqrt(self.profile.ring_degree)
        return _WINDOW * noise / self.scale

    def count(self, size: int) -> int:
        """Return how many polynomials hold `size` values."""
        return -(-size // (self.profile.ring_degree // 2 - 1))

    def encode(self, values: Values) -> Residues:
        """Return (count, N) message polynomials; see `Packing.encode`."""
        width = self.profile.ring_degree // 2 - 1
        count = self.count(values.size)
        padded = np.zeros(count * width)
        padded[: values.size] = values
        slots = np.full((count, width + 1), self.check_value)
        slots[:, :width] = padded.reshape(count, width)
        coefficients = slots_to_coefficients(slots, self.profile.ring_degree)
        integers = np.rint(coefficients * self.scale).astype(np.int64)
        return self.profile.data_ring.fields[0].from_signed(integers)

    def decode(self, total: Residues, size: int, contributions: int) -> Values:
        """Return the sums; see `Packing.decode`."""
        centred = self.profile.data_ring.fields[0].centred(total).astype(np.float64)
        slots = coefficients_to_slots(centred / self.scale)
        _raise_if_off(np.abs(slots[:, -1] - contributions * self.check_value), self.tolerance)
        return slots[:, :-1].reshape(-1)[:size]


def _raise_if_off(residual: Values, tolerance: float) -> None:
    wrong = int((residual > tolerance).sum())
    if wrong:
        raise ChecksumError(
            f"{wrong} of {residual.size} checksums are wrong: a decryption share is missing, "
            "corrupt or of another sum"
        )


@lru_cache(maxsize=8)
def _public_signs(count: int) -> NDArray[np.int64]:
    stream = hashlib.shake_256(b"fedguard checksum signs").digest(-(-count // 8))
    bits = np.unpackbits(np.frombuffer(stream, dtype=np.uint8))[:count]
    signs = 1 - 2 * bits.astype(np.int64)
    signs.flags.writeable = False
    return signs


@lru_cache(maxsize=8)
def _slot_positions(degree: int) -> NDArray[np.int64]:
    """Return where slot j lies among the odd powers: (3^j - 1) / 2 modulo N."""
    positions = np.empty(degree // 2, dtype=np.int64)
    power = 1
    for slot in range(degree // 2):
        positions[slot] = (power - 1) // 2
        power = power * 3 % (2 * degree)
    return positions


def slots_to_coefficients(slots: Values, degree: int) -> Values:
    """Return the real polynomials (count, N) whose real slots (count, N/2) are given."""
    positions = _slot_positions(degree)
    points = np.zeros((len(slots), degree), dtype=np.complex128)
    points[:, positions] = slots
    points[:, degree - 1 - positions] = slots
    twist = np.exp(-1j * np.pi * np.arange(degree) / degree)
    coefficients: Values = (np.fft.fft(points, axis=1) / degree * twist).real
    return coefficients


def coefficients_to_slots(coefficients: Values) -> Values:
    """Return the real parts of the slots (count, N/2) of real polynomials (count, N)."""
    degree = coefficients.shape[1]
    twist = np.exp(1j * np.pi * np.arange(degree) / degree)
    points = np.fft.ifft(coefficients * twist, axis=1) * degree
    slots: Values = points[:, _slot_positions(degree)].real
    return slots
