"""Parameter sets, and the security and accuracy that each of them gives."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property

from fedguard.encryption.lattice.modular import MAX_PRIME_BITS, ntt_primes
from fedguard.encryption.lattice.ring import Ring, ring
from fedguard.encryption.lattice.sampling import ERROR_VARIANCE, TERNARY_VARIANCE
from fedguard.errors import ConfigurationError, check_number, unknown_name

RLWE_TABLE: dict[int, tuple[int, int, int]] = {
    2048: (54, 37, 29),
    4096: (109, 75, 58),
    8192: (218, 152, 118),
    16384: (438, 305, 237),
}
"""Ring degree to the largest modulus, in bits, that gives 128, 192 and 256 bits of security
against classical attacks with ternary secrets (homomorphicencryption.org standard, 2018)."""

_LEVELS = (128, 192, 256)
_RESOLUTION = 1e-4
"""Largest standard error of the mean, per parameter, that a cohort may be given."""


@dataclass(frozen=True)
class Profile:
    """Ring, moduli, flooding and value range of one parameter set.

    Ciphertexts live modulo Q = q_0 q_1 ...; keys also carry a special prime, which TenSEAL uses to
    shrink the encryption noise and which never travels with a ciphertext. The part of a
    ciphertext that carries the message, and every decryption share, travel rounded to q_0.

    Parameters
    ----------
    name : str
        What it is called.
    ring_degree : int
        N, a key of `RLWE_TABLE`.
    data_bits : tuple of int
        Bit lengths of q_0, q_1, ...; 1 to 3 primes of at most 50 bits.
    special_bits : int
        Bit length of the special prime.
    flooding_bits : float
        log2 of the standard deviation of the noise in a decryption share, 0 to 58.
    clip : float
        Values are clipped to [-clip, clip] before they are encoded.
    """

    name: str
    ring_degree: int
    data_bits: tuple[int, ...]
    special_bits: int
    flooding_bits: float
    clip: float = 8.0

    def __post_init__(self) -> None:
        if self.ring_degree not in RLWE_TABLE:
            raise ConfigurationError(
                "ring_degree", self.ring_degree, ", ".join(map(str, RLWE_TABLE))
            )
        lowest = self.ring_degree.bit_length() + 1
        for bits in self.key_bits:
            if not lowest <= bits <= MAX_PRIME_BITS:
                raise ConfigurationError("prime bits", bits, f"{lowest} to {MAX_PRIME_BITS}")
        if not 1 <= len(self.data_bits) <= 3:
            raise ConfigurationError("data_bits", self.data_bits, "1 to 3 primes")
        limit = RLWE_TABLE[self.ring_degree][0]
        if sum(self.key_bits) > limit:
            raise ConfigurationError(
                "prime bits",
                sum(self.key_bits),
                f"at most {limit} bits in all for 128-bit security at ring degree "
                f"{self.ring_degree}",
            )
        check_number("flooding_bits", self.flooding_bits, at_least=0, at_most=58)
        check_number("clip", self.clip, above=0, at_most=1e6)

    @property
    def key_bits(self) -> tuple[int, ...]:
        """Bit lengths of all primes of a key, the special one last."""
        return (*self.data_bits, self.special_bits)

    @cached_property
    def key_ring(self) -> Ring:
        """Ring of the keys."""
        return ring(self.ring_degree, ntt_primes(self.ring_degree, self.key_bits))

    @cached_property
    def data_ring(self) -> Ring:
        """Ring of the ciphertexts."""
        return self.key_ring.prefix(len(self.data_bits))

    @property
    def message_modulus(self) -> int:
        """The prime q_0, modulo which messages are summed."""
        return self.key_ring.primes[0]

    @cached_property
    def digest(self) -> bytes:
        """16 bytes that name these parameters in every serialised object."""
        fields = (self.ring_degree, self.key_ring.primes, self.flooding_bits, self.clip)
        return hashlib.sha256(f"fedguard/1/{fields}".encode()).digest()[:16]

    @property
    def rlwe_bits(self) -> int:
        """Security of keys and ciphertexts by the table: the highest level that holds."""
        limits = RLWE_TABLE[self.ring_degree]
        held = zip(_LEVELS, limits, strict=True)
        return max(level for level, limit in held if sum(self.key_bits) <= limit)

    @property
    def share_noise(self) -> float:
        """Standard deviation of the flooding, after rounding to q_0."""
        dropped = self.data_ring.modulus / self.message_modulus
        return math.hypot(2.0**self.flooding_bits / dropped, 1 / math.sqrt(12))

    def scale(self, clients: int) -> int:
        """Return the fixed-point scale that uses all the room q_0 leaves a sum of `clients`."""
        noise = 10 * self.sum_noise(clients)
        room = self.message_modulus / 2 - noise
        return max(int(room / (clients * self.clip)), 0)

    def sum_noise(self, clients: int) -> float:
        """Return the standard deviation of one fused coefficient, in units of 1 modulo q_0."""
        rounding = 2 / 12  # of the message and of c0
        return math.sqrt(clients * (self.share_noise**2 + rounding))

    def error_std(self, clients: int) -> float:
        """Return the standard error of one parameter of the unweighted mean of `clients`."""
        scale = self.scale(clients)
        return self.sum_noise(clients) / (clients * scale) if scale else math.inf

    def ciphertext_noise(self, clients: int, *, special_prime: bool) -> float:
        """Return the standard deviation of the noise in the sum of `clients` ciphertexts.

        Parameters
        ----------
        clients : int
            Number of keys in the joint key, and of ciphertexts in the sum.
        special_prime : bool
            Whether ciphertexts were made modulo the key's modulus and rounded, as TenSEAL does.
        """
        n = self.ring_degree
        fresh = clients**2 * 2 * n * TERNARY_VARIANCE * ERROR_VARIANCE
        if not special_prime:
            return math.sqrt(fresh)
        rounding = clients**2 * n * TERNARY_VARIANCE / 12 + clients / 12
        return math.sqrt(fresh / self.key_ring.primes[-1] ** 2 + rounding)

    def statistical_bits(
        self, clients: int, ciphertexts: int, *, answers: int = 1, special_prime: bool = True
    ) -> float:
        """Return the statistical security of the decryption shares.

        ``sigma* >= 2^(lambda/2) sqrt(12 tau) ||e||``, solved for lambda, with ``||e||`` the norm
        of the sum's noise polynomial and tau the number of polynomials answered under one key. A
        reading of Li, Micciancio, Schultz and Sorrell (CRYPTO 2022); one honest share's flooding
        is counted, as if all others colluded.

        Parameters
        ----------
        clients : int
            Number of clients in the round.
        ciphertexts : int
            Ciphertexts per client.
        answers : int
            How often a client may answer under one key.
        special_prime : bool
            See `ciphertext_noise`.
        """
        noise = self.ciphertext_noise(clients, special_prime=special_prime)
        norm = math.log2(noise) + 0.5 * math.log2(self.ring_degree)
        uses = 0.5 * math.log2(12 * ciphertexts * answers)
        return max(2 * (self.flooding_bits - norm - uses), 0.0)

    @property
    def strength(self) -> tuple[float, int]:
        """Statistical bits of the shares of 50 clients with 25 ciphertexts each, and RLWE bits."""
        return self.statistical_bits(50, 25), self.rlwe_bits

    def check(self, clients: int) -> None:
        """Raise `ConfigurationError` if a sum of `clients` would overflow or drown in noise."""
        check_number("clients", clients, at_least=1)
        if self.error_std(clients) > _RESOLUTION:
            raise ConfigurationError(
                "clients",
                clients,
                f"at most {self.max_clients} with profile {self.name} and clip {self.clip:g}, "
                "or the sum overflows",
            )

    @property
    def max_clients(self) -> int:
        """Largest cohort that `check` accepts."""
        low, high = 0, 1 << 24
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (
                (middle, high) if self.error_std(middle) <= _RESOLUTION else (low, middle - 1)
            )
        return low

    def describe(
        self,
        clients: int = 50,
        ciphertexts: int = 25,
        *,
        answers: int = 1,
        special_prime: bool = True,
    ) -> str:
        """Return one line with what the profile gives; see `statistical_bits`."""
        bits = self.statistical_bits(
            clients, ciphertexts, answers=answers, special_prime=special_prime
        )
        upload = (self.data_bits[0] + sum(self.data_bits)) / 32
        return (
            f"{self.name}: ring degree {self.ring_degree}, {sum(self.key_bits)}-bit key modulus, "
            f"RLWE security {self.rlwe_bits} bits, shares {bits:.0f} statistical bits "
            f"({clients} clients, {ciphertexts} ciphertexts each), upload {upload:.2f}x float32, "
            f"standard error of the mean {self.error_std(clients):.1e}; against an "
            "honest-but-curious server"
        )


PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile("light", 4096, (30, 36), 37, 39.0),
        Profile("default", 4096, (32, 49), 28, 54.0),
        Profile("wide", 8192, (40, 50), 50, 58.0),
    )
}
"""Ready parameter sets: fewest bytes; the default; larger ring, 192-bit class, least noise."""


def profile(name: str) -> Profile:
    """Return a ready profile.

    Raises
    ------
    ConfigurationError
        If there is none of that name.
    """
    if name not in PROFILES:
        raise unknown_name("profile", name, PROFILES)
    return PROFILES[name]
