from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedguard.encryption.errors import ProtocolError
from fedguard.encryption.lattice import multikey, wire
from fedguard.encryption.lattice.multikey import Ciphertext
from fedguard.encryption.lattice.profiles import profile

DEFAULT = profile("default")


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 63), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_bit_packing_is_exact_and_has_no_slack(bits, groups, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 1 << bits, 8 * groups, dtype=np.uint64)
    values[0] = (1 << bits) - 1
    packed = wire.pack_bits(values, bits)
    assert len(packed) == groups * bits
    assert np.array_equal(wire.unpack_bits(packed, bits, values.size), values)


def test_unpacking_refuses_another_length():
    with pytest.raises(ProtocolError, match="cannot hold"):
        wire.unpack_bits(b"\0" * 10, 36, 16)


def random_ciphertext(count: int = 2) -> Ciphertext:
    rng = np.random.default_rng(0)
    degree, primes = DEFAULT.ring_degree, DEFAULT.data_ring.primes
    c0 = rng.integers(0, primes[0], (count, degree), dtype=np.uint64)
    c1 = [rng.integers(0, p, (count, degree), dtype=np.uint64) for p in primes]
    return Ciphertext(c0, np.stack(c1))


def test_ciphertexts_survive_the_wire():
    ciphertext = random_ciphertext()
    data = ciphertext.to_bytes(DEFAULT)
    bits = DEFAULT.data_bits[0] + sum(DEFAULT.data_bits)
    assert len(data) == 26 + 2 * DEFAULT.ring_degree * bits // 8
    found = Ciphertext.from_bytes(DEFAULT, data)
    assert np.array_equal(found.c0, ciphertext.c0)
    assert np.array_equal(found.c1, ciphertext.c1)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:10],
        lambda data: b"XXXX" + data[4:],
        lambda data: data[:4] + b"\x09" + data[5:],
        lambda data: data[:6] + b"\xff\xff\xff\xff" + data[10:],
        lambda data: data[:6] + b"\0\0\0\0" + data[10:],
        lambda data: data[:26] + b"\xff" * (len(data) - 26),
    ],
    ids=["cut", "longer", "stub", "magic", "version", "count", "empty", "residues"],
)
def test_spoilt_bytes_are_refused(spoil):
    with pytest.raises(ProtocolError):
        Ciphertext.from_bytes(DEFAULT, spoil(random_ciphertext().to_bytes(DEFAULT)))


def test_kinds_and_profiles_are_not_mixed_up():
    data = random_ciphertext().to_bytes(DEFAULT)
    with pytest.raises(ProtocolError, match="decryption share"):
        multikey.read_share(DEFAULT, data)
    with pytest.raises(ProtocolError, match="other parameters"):
        Ciphertext.from_bytes(profile("light"), data)
