"""What encryption costs, without doing it: bytes by formula, time by a short measurement.

For sweeps too large for real cryptography. A mean gets noise of the distribution that fusing
flooded shares leaves; nothing is encrypted and nothing is protected.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fedguard.encryption.lattice import multikey, wire
from fedguard.encryption.lattice.backend import BackendName, make_backend
from fedguard.encryption.lattice.multikey import SecretKey
from fedguard.encryption.lattice.packing import PackingName, Values, make_packing
from fedguard.encryption.lattice.profiles import profile as find_profile
from fedguard.encryption.lattice.sampling import SystemRandom
from fedguard.encryption.protocol.weights import EXTRAS, GroupMean, group_mean

_CALIBRATION = 8
"""Ciphertexts that are really made to measure the time per ciphertext."""


@dataclass(frozen=True)
class Cost:
    """What one client spends in one round.

    Attributes
    ----------
    upload, download : int
        Bytes, without the model.
    seconds : float
        CPU seconds for encrypting and sharing on this machine.
    """

    upload: int
    download: int
    seconds: float


def predicted_cost(
    profile_name: str,
    packing: PackingName,
    size: int,
    clients: int,
    *,
    threshold: int = 0,
    backend: BackendName = "auto",
) -> Cost:
    """Return what `size` parameters cost one of `clients` in one round of multi-key CKKS.

    Parameters
    ----------
    profile_name, packing, threshold, backend
        See `XmkCkks`.
    size : int
        Parameters D.
    clients : int
        Cohort or group size.
    """
    profile = find_profile(profile_name)
    count = make_packing(packing, profile, clients).count(size + EXTRAS)
    first, whole = profile.data_bits[0], sum(profile.data_bits)
    per_bit = count * profile.ring_degree // 8
    key = wire.HEADER_BYTES + profile.ring_degree * sum(profile.key_bits) // 8
    box = 32 + 16  # a sealed seed
    if threshold:
        box += wire.HEADER_BYTES + profile.ring_degree * whole // 8
    ciphertext = wire.HEADER_BYTES + per_bit * (first + whole)
    share = wire.HEADER_BYTES + per_bit * first
    total = wire.HEADER_BYTES + per_bit * whole
    return Cost(
        upload=ciphertext + share + key + clients * box,
        download=total + clients * (key + box),
        seconds=count * _seconds_per_ciphertext(profile_name, backend),
    )


@lru_cache(maxsize=8)
def _seconds_per_ciphertext(profile_name: str, backend: BackendName) -> float:
    """Measure encryption and share of a few ciphertexts, once per process."""
    profile, source = find_profile(profile_name), SystemRandom()
    engine = make_backend(backend, source)
    a = multikey.common_polynomial(profile, b"calibration")
    secret = SecretKey.generate(profile, source)
    key = multikey.joint_key(profile, a, [secret.public_share(profile, a, source)])
    packing = make_packing("coefficients", profile, 1)
    values = np.zeros(_CALIBRATION * (profile.ring_degree - 1))
    started = time.process_time()
    ciphertext = multikey.encrypt(profile, engine, packing, values, key, source)
    ciphertext.to_bytes(profile)
    transform = secret.transform(profile)
    multikey.write_share(
        profile, multikey.decryption_share(profile, ciphertext.c1, transform, source)
    )
    return (time.process_time() - started) / _CALIBRATION


def noise_std(profile_name: str, packing: PackingName, clients: int) -> float:
    """Return the standard deviation of one entry of a fused sum of `clients` vectors."""
    profile = find_profile(profile_name)
    amplification = 1.0 if packing == "coefficients" else math.sqrt(profile.ring_degree / 2)
    return amplification * profile.sum_noise(clients) / profile.scale(clients)


def simulated_mean(
    deltas: Values,
    num_examples: Values,
    parties: tuple[int, ...],
    limit: int,
    clip: float,
    std: float,
    rng: np.random.Generator,
) -> GroupMean:
    """Return the mean that the protocol would open: clipped, weighted, with its noise.

    Parameters
    ----------
    deltas : ndarray
        (K, D) plaintext updates.
    num_examples : ndarray
        (K,) weights.
    parties : tuple of int
        K contributors.
    limit : int
        Number of examples that counts as weight 1.
    clip : float
        The profile's clip.
    std : float
        See `noise_std`.
    rng : Generator
        Stream of the noise.
    """
    weights = np.clip(num_examples / limit, 0, 1)
    clipped = np.clip(deltas, -clip, clip)
    shares = (clipped != deltas).mean(axis=1)
    total = np.concatenate([weights @ clipped, [weights.sum() * clip, shares.sum() * clip]])
    total += rng.normal(0.0, std, total.size)
    return group_mean(total, deltas.shape[1], clip, limit, parties)
