from __future__ import annotations

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedguard.encryption.errors import BackendUnavailableError
from fedguard.encryption.lattice import seal_format as seal
from fedguard.encryption.lattice.modular import ntt_primes, prime_field

ts = pytest.importorskip("tenseal")

DEGREE, BITS, SCALE = 4096, (36, 36, 37), 2.0**40


@pytest.fixture(scope="module")
def context():
    made = ts.context(ts.SCHEME_TYPE.CKKS, DEGREE, coeff_mod_bit_sizes=list(BITS))
    made.global_scale = SCALE
    return made


@pytest.fixture(scope="module")
def parsed(context):
    blob = context.serialize(
        save_public_key=True, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
    )
    return seal.TensealContext.load(blob)


FIELDS = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 99), st.just(0), st.integers(0, 2**63 - 1)),
        st.tuples(st.integers(1, 99), st.just(1), st.binary(min_size=8, max_size=8)),
        st.tuples(st.integers(1, 99), st.just(2), st.binary(max_size=300)),
    ),
    max_size=6,
)


@settings(max_examples=80, deadline=None)
@given(FIELDS)
def test_protobuf_fields_survive(fields):
    assert seal.read_protobuf(seal.write_protobuf(fields)) == fields


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data):
    for read in (seal.read_protobuf, seal.SealCiphertext.load, seal.TensealContext.load):
        with contextlib.suppress(BackendUnavailableError):
            read(data)


def test_a_secret_key_read_from_bytes_is_ternary(parsed):
    field = prime_field(DEGREE, ntt_primes(DEGREE, BITS)[0])
    key = parsed.secret_key(DEGREE)
    assert key.shape == (3, DEGREE)
    assert set(np.unique(field.centred(field.intt(key[:1])))) == {-1, 0, 1}


def test_public_and_secret_key_belong_together(parsed):
    secret, public = parsed.secret_key(DEGREE), parsed.public_key.data
    for limb, prime in enumerate(ntt_primes(DEGREE, BITS)):
        field = prime_field(DEGREE, prime)
        noise = field.add(public[0, limb], field.mul(public[1, limb], secret[limb]))
        assert np.abs(field.centred(field.intt(noise[None]))).max() <= 21


def test_a_vector_written_uncompressed_is_accepted_and_equal(context):
    values = np.random.default_rng(0).normal(size=3000)
    blob = ts.ckks_vector(context, values).serialize()
    ciphertexts = seal.vector_ciphertexts(blob)
    assert len(ciphertexts) == 2
    assert ciphertexts[0].data.shape == (2, 2, DEGREE)
    again = seal.with_ciphertexts(blob, ciphertexts)
    found = np.array(ts.ckks_vector_from(context, again).decrypt())
    assert np.abs(found - values).max() < 1e-6


def test_our_slot_decoding_is_tenseals(context, parsed):
    """TenSEAL encrypts, we decrypt from bytes and decode: both must agree with the input."""
    from fedguard.encryption.lattice.packing import coefficients_to_slots

    values = np.random.default_rng(1).normal(size=DEGREE // 2)
    ciphertext = seal.vector_ciphertexts(ts.ckks_vector(context, values).serialize())[0]
    primes = ntt_primes(DEGREE, BITS)[:2]
    secret = parsed.secret_key(DEGREE)
    limbs = []
    for limb, prime in enumerate(primes):
        field = prime_field(DEGREE, prime)
        c0, c1 = ciphertext.data[:, limb]
        limbs.append(field.intt(field.add(c0, field.mul(c1, secret[limb]))[None])[0])
    low, high = (limb.astype(object) for limb in limbs)
    value = low + primes[0] * (((high - low) * pow(primes[0], -1, primes[1])) % primes[1])
    modulus = primes[0] * primes[1]
    centred = np.where(value > modulus // 2, value - modulus, value).astype(np.float64)
    slots = coefficients_to_slots(centred[None] / SCALE)[0]
    assert np.abs(slots - values).max() < 1e-6


def test_truncated_or_foreign_objects_name_the_known_version(context):
    blob = ts.ckks_vector(context, [1.0]).serialize()
    inner = seal.embedded(seal.read_protobuf(blob), 2)[0]
    for spoilt in (inner[:40], b"\0" * 100, struct.pack("<HBBBBHQ", 0xA15E, 16, 4, 1, 7, 0, 16)):
        with pytest.raises(BackendUnavailableError, match=r"0\.3\.18"):
            seal.SealCiphertext.load(spoilt)
    with pytest.raises(BackendUnavailableError, match="cut short"):
        seal.read_protobuf(blob[:-100])
