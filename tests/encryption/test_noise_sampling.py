from __future__ import annotations

import numpy as np
import pytest

from fedguard.encryption.lattice.modular import ntt_primes, prime_field
from fedguard.encryption.lattice.sampling import (
    ERROR_VARIANCE,
    TERNARY_VARIANCE,
    InsecureSeededRandom,
    SystemRandom,
    centred_binomial,
    flooding,
    ternary,
    uniform,
)

SHAPE = (50, 4096)


def test_ternary_has_its_variance_and_support():
    values = ternary(SystemRandom(), SHAPE)
    assert values.shape == SHAPE
    assert set(np.unique(values)) == {-1, 0, 1}
    assert abs(values.var() - TERNARY_VARIANCE) < 0.01


def test_errors_have_seals_standard_deviation():
    values = centred_binomial(SystemRandom(), SHAPE)
    assert abs(values.var() / ERROR_VARIANCE - 1) < 0.03
    assert abs(values.mean()) < 0.05
    assert np.abs(values).max() <= 21


@pytest.mark.parametrize("bits", [0.0, 4.0, 30.0, 39.0, 54.0, 58.0])
def test_flooding_has_the_width_it_promises(bits):
    values = flooding(SystemRandom(), SHAPE, bits)
    width = np.hypot(2.0**bits, 1 / np.sqrt(12)) if bits < 10 else 2.0**bits
    assert abs(values.astype(np.float64).std() / width - 1) < 0.02
    assert abs(values.astype(np.float64).mean()) < 0.02 * width


def test_wide_flooding_fills_the_lowest_bits():
    values = flooding(SystemRandom(), SHAPE, 54.0)
    for bit in range(24):
        assert abs(float(((values >> bit) & 1).mean()) - 0.5) < 0.01


def test_flooding_beyond_64_bit_integers_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        flooding(SystemRandom(), (4,), 59)


def test_uniform_residues_fill_their_range():
    field = prime_field(2048, ntt_primes(2048, (36,))[0])
    values = uniform(SystemRandom(), SHAPE, field)
    assert int(values.max()) < field.prime
    assert abs(float((values / field.prime).mean()) - 0.5) < 0.01


def test_seeded_streams_repeat_and_differ_by_label():
    first, again = InsecureSeededRandom(1, "a"), InsecureSeededRandom(1, "a")
    assert first.bytes(40) == again.bytes(40)
    assert first.bytes(40) == again.bytes(40)
    assert first.bytes(40) != InsecureSeededRandom(1, "b").bytes(40)
    assert first.bytes(40) != first.bytes(40)
    assert SystemRandom().bytes(40) != SystemRandom().bytes(40)
