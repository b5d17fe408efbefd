from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedguard.encryption.errors import ChecksumError
from fedguard.encryption.lattice.packing import (
    coefficients_to_slots,
    make_packing,
    slots_to_coefficients,
)
from fedguard.encryption.lattice.profiles import profile
from fedguard.errors import ConfigurationError

DEFAULT = profile("default")
FIELD = DEFAULT.data_ring.fields[0]


def random_values(size: int, seed: int = 0, bound: float = 8.0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-bound, bound, size)


@pytest.mark.parametrize("name", ["coefficients", "slots"])
@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 9000), clients=st.integers(1, 60), seed=st.integers(0, 99))
def test_sums_of_messages_decode_to_sums_of_values(name, size, clients, seed):
    packing = make_packing(name, DEFAULT, clients)
    rows = [random_values(size, seed + k) for k in range(min(clients, 4))]
    total = packing.encode(rows[0])
    for row in rows[1:]:
        total = FIELD.add(total, packing.encode(row))
    found = packing.decode(total, size, len(rows))
    assert found.shape == (size,)
    assert np.abs(found - np.sum(rows, axis=0)).max() < 100 * len(rows) / DEFAULT.scale(clients)


def test_the_extreme_sum_does_not_overflow():
    packing = make_packing("coefficients", DEFAULT, 50)
    message = packing.encode(np.full(5000, -DEFAULT.clip))
    total = message
    for _ in range(49):
        total = FIELD.add(total, message)
    assert np.allclose(packing.decode(total, 5000, 50), -400.0)


@pytest.mark.parametrize("name", ["coefficients", "slots"])
def test_a_missing_message_is_noticed(name):
    packing = make_packing(name, DEFAULT, 3)
    total = FIELD.add(packing.encode(random_values(100)), packing.encode(random_values(100, 1)))
    assert packing.decode(total, 100, 2).shape == (100,)
    with pytest.raises(ChecksumError, match="1 of 1 checksums"):
        packing.decode(total, 100, 3)


@pytest.mark.parametrize("name", ["coefficients", "slots"])
def test_garbage_is_noticed_in_every_polynomial(name):
    packing = make_packing(name, DEFAULT, 50)
    size = 20_000
    garbage = np.random.default_rng(0).integers(
        0, FIELD.prime, packing.encode(np.zeros(size)).shape, dtype=np.uint64
    )
    with pytest.raises(ChecksumError) as caught:
        packing.decode(garbage, size, 50)
    assert f"{len(garbage)} of {len(garbage)}" in str(caught.value)


def test_one_altered_coefficient_is_noticed():
    packing = make_packing("coefficients", DEFAULT, 10)
    total = packing.encode(random_values(5000))
    total[1, 17] = (total[1, 17] + np.uint64(1 << 30)) % np.uint64(FIELD.prime)
    with pytest.raises(ChecksumError, match="1 of 2"):
        packing.decode(total, 5000, 1)


def test_coefficients_hold_twice_what_slots_hold():
    assert make_packing("coefficients", DEFAULT, 5).count(1_000_000) == 245
    assert make_packing("slots", DEFAULT, 5).count(1_000_000) == 489


def test_slots_are_the_canonical_embedding():
    degree = 32
    slots = np.random.default_rng(1).normal(size=(1, degree // 2))
    polynomial = slots_to_coefficients(slots, degree)
    assert np.allclose(coefficients_to_slots(polynomial), slots)
    zeta = np.exp(1j * np.pi / degree)
    for slot in range(degree // 2):
        point = zeta ** pow(3, slot, 2 * degree)
        value = sum(c * point**k for k, c in enumerate(polynomial[0]))
        assert value == pytest.approx(slots[0, slot])


def test_unknown_packing_is_refused():
    with pytest.raises(ConfigurationError, match="did you mean 'slots'"):
        make_packing("slot", DEFAULT, 5)
