from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lattice_worlds import schoolbook

from fedguard.encryption.lattice.modular import (
    PrimeField,
    bit_reversed,
    is_prime,
    ntt_primes,
    prime_field,
)
from fedguard.encryption.lattice.ring import Ring

BITS = (20, 30, 36, 45, 49, 50)


def random_residues(field: PrimeField, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(
        0, field.prime, (count, field.degree), dtype=np.uint64
    )


@pytest.mark.parametrize("bits", BITS)
def test_products_of_transforms_are_negacyclic_products(bits):
    degree = 32
    field = prime_field(degree, ntt_primes(degree, (bits,))[0])
    a, b = random_residues(field, 1, 1), random_residues(field, 1, 2)
    found = field.intt(field.mul(field.ntt(a), field.ntt(b)))[0]
    wanted = schoolbook([int(x) for x in a[0]], [int(x) for x in b[0]], field.prime)
    assert found.tolist() == wanted


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("degree", [2048, 8192])
def test_transforms_invert_at_the_edges_of_the_range(bits, degree):
    field = prime_field(degree, ntt_primes(degree, (bits,))[0])
    values = random_residues(field, 19)
    values[0], values[1], values[2] = field.prime - 1, 0, field.prime // 2
    before = values.copy()
    transformed = field.ntt(values)
    assert int(transformed.max()) < field.prime
    assert np.array_equal(field.intt(transformed), before)
    assert np.array_equal(values, before), "a transform must not write to its input"


def test_one_polynomial_is_not_transformed_in_place():
    field = prime_field(2048, ntt_primes(2048, (36,))[0])
    values = random_residues(field, 1)
    before = values.copy()
    field.ntt(values)
    field.intt(values)
    assert np.array_equal(values, before)


def test_transform_evaluates_at_odd_powers_of_the_root_in_bit_reversed_order():
    degree = 16
    field = prime_field(degree, ntt_primes(degree, (20,))[0])
    root = field._root
    assert pow(root, degree, field.prime) == field.prime - 1
    values = random_residues(field, 1)
    evaluated = [
        sum(int(c) * pow(root, (2 * k + 1) * i, field.prime) for i, c in enumerate(values[0]))
        % field.prime
        for k in range(degree)
    ]
    wanted = [evaluated[k] for k in bit_reversed(degree)]
    assert field.ntt(values)[0].tolist() == wanted


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_arithmetic_is_that_of_python_integers(data):
    bits = data.draw(st.sampled_from(BITS))
    prime = ntt_primes(2048, (bits,))[0]
    field = prime_field(2048, prime)
    edge = st.sampled_from([0, 1, prime // 2, prime // 2 + 1, prime - 1])
    pair = st.lists(st.one_of(edge, st.integers(0, prime - 1)), min_size=6, max_size=6)
    a, b = data.draw(pair), data.draw(pair)
    x, y = np.array(a, dtype=np.uint64), np.array(b, dtype=np.uint64)
    assert field.mul(x, y).tolist() == [p * q % prime for p, q in zip(a, b, strict=True)]
    assert field.add(x, y).tolist() == [(p + q) % prime for p, q in zip(a, b, strict=True)]
    assert field.sub(x, y).tolist() == [(p - q) % prime for p, q in zip(a, b, strict=True)]
    assert field.neg(x).tolist() == [-p % prime for p in a]
    assert field.total(x) == sum(a) % prime
    assert field.from_signed(field.centred(x)).tolist() == a
    inverses = field.inverse(x).tolist()
    assert inverses == [pow(p, -1, prime) if p else 0 for p in a]


def test_primes_are_ntt_friendly_and_distinct():
    primes = ntt_primes(4096, (36, 36, 37))
    assert [p.bit_length() for p in primes] == [36, 36, 37]
    assert len(set(primes)) == 3
    assert all(is_prime(p) and p % 8192 == 1 for p in primes)
    with pytest.raises(ValueError, match="not enough"):
        ntt_primes(4096, (14, 14))


@pytest.mark.parametrize(
    ("number", "prime"), [(2, True), (561, False), (2**31 - 1, True), (1, False)]
)
def test_primality(number, prime):
    assert is_prime(number) is prime


def test_a_prime_that_is_too_long_or_unfit_is_refused():
    with pytest.raises(ValueError, match="NTT prime"):
        PrimeField(2048, ntt_primes(2048, (54,))[0])
    with pytest.raises(ValueError, match="NTT prime"):
        PrimeField(2048, 2**31 - 1)


@pytest.mark.parametrize("bits", [(32, 49), (30, 36, 37), (40,)])
def test_dropping_limbs_is_division_with_rounding(bits):
    degree = 32
    ring = Ring(degree, ntt_primes(degree, bits))
    rng = np.random.default_rng(3)
    exact = [int.from_bytes(rng.bytes(20), "little") % ring.modulus for _ in range(degree)]
    limbs = np.array([[[x % p for x in exact]] for p in ring.primes], dtype=np.uint64)
    found = ring.drop_to_first(limbs)[0].astype(object)
    first = ring.primes[0]
    for value, got in zip(exact, found, strict=True):
        ideal = value * first / ring.modulus
        gap = (int(got) - round(ideal)) % first
        assert min(gap, first - gap) <= len(bits) - 1


def test_public_expansion_is_deterministic_and_uniform():
    ring = Ring(2048, ntt_primes(2048, (36, 49)))
    first, again = ring.uniform(b"seed", 3), ring.uniform(b"seed", 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, ring.uniform(b"other", 3))
    for limb, prime in enumerate(ring.primes):
        scaled = first[limb] / prime
        assert float(scaled.max()) < 1
        assert abs(float(scaled.mean()) - 0.5) < 0.02
        assert abs(float(scaled.var()) - 1 / 12) < 0.005
