"""TenSEAL and NumPy against each other: same objects, same noise up to a known factor."""

from __future__ import annotations

import importlib.metadata

import numpy as np
import pytest

from fedguard.encryption.errors import BackendUnavailableError
from fedguard.encryption.lattice import backend_tenseal
from fedguard.encryption.lattice.backend import make_backend
from fedguard.encryption.lattice.backend_numpy import NumpyBackend
from fedguard.encryption.lattice.modular import Residues
from fedguard.encryption.lattice.multikey import SecretKey, common_polynomial, encrypt, joint_key
from fedguard.encryption.lattice.packing import make_packing
from fedguard.encryption.lattice.profiles import PROFILES, Profile, profile
from fedguard.encryption.lattice.sampling import InsecureSeededRandom, SystemRandom
from fedguard.errors import ConfigurationError

pytest.importorskip("tenseal")
SOURCE = SystemRandom()
CLIENTS = 5
BACKENDS = ["tenseal", "numpy"]


def make_keys(parameters: Profile) -> tuple[list[SecretKey], object]:
    a = common_polynomial(parameters, b"test")
    secrets = [SecretKey.generate(parameters, SOURCE) for _ in range(CLIENTS)]
    key = joint_key(parameters, a, [s.public_share(parameters, a, SOURCE) for s in secrets])
    return secrets, key


def noise_of(parameters: Profile, zero: Residues, secrets: list[SecretKey]) -> np.ndarray:
    """Decrypt encryptions of zero with the sum of all secrets."""
    ring = parameters.data_ring
    total = ring.embed(sum(s.coefficients for s in secrets)[None])
    opened = ring.intt(ring.add(zero[0], ring.mul(zero[1], total)))
    values = [f.centred(limb) for f, limb in zip(ring.fields, opened, strict=True)]
    assert all(np.array_equal(v, values[0]) for v in values), "the noise is not small"
    return values[0]


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_noise_is_what_the_profile_reckons_with(name, backend):
    parameters, engine = profile(name), make_backend(backend, SOURCE)
    secrets, key = make_keys(parameters)
    zero = engine.encrypt_zero(parameters, key.b, key.a, 6, SOURCE)
    expected = parameters.ciphertext_noise(CLIENTS, special_prime=engine.special_prime)
    found = noise_of(parameters, zero, secrets).std() * np.sqrt(CLIENTS)
    assert found == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("packing_name", ["coefficients", "slots"])
def test_both_backends_decode_to_the_same_values(packing_name):
    parameters = profile("default")
    packing = make_packing(packing_name, parameters, CLIENTS)
    values = np.random.default_rng(0).normal(0, 0.1, 5000)
    secrets, key = make_keys(parameters)
    ring = parameters.data_ring
    total = ring.embed(sum(s.coefficients for s in secrets)[None])
    decoded = []
    for name in BACKENDS:
        engine = make_backend(name, SOURCE)
        ciphertext = encrypt(parameters, engine, packing, values, key, SOURCE)
        opened = ring.drop_to_first(ring.intt(ring.mul(ciphertext.c1, total)))
        message = ring.fields[0].add(ciphertext.c0, opened)
        decoded.append(packing.decode(message, values.size, 1))
    fine = 40 / parameters.scale(CLIENTS) if packing_name == "coefficients" else 2e-6
    for found in decoded:
        assert np.abs(found - values).max() < fine
    assert np.abs(decoded[0] - decoded[1]).max() < fine


@pytest.mark.parametrize("backend", BACKENDS)
def test_ciphertexts_of_equal_messages_look_random(backend):
    parameters, engine = profile("default"), make_backend(backend, SOURCE)
    _, key = make_keys(parameters)
    zero = engine.encrypt_zero(parameters, key.b, key.a, 4, SOURCE)
    assert zero.shape == (2, 2, 4, 4096)
    for part in zero:
        for limb, prime in enumerate(parameters.data_ring.primes):
            scaled = part[limb] / prime
            assert abs(float(scaled.mean()) - 0.5) < 0.02
            assert len(np.unique(part[limb])) > 0.99 * part[limb].size
    assert not np.array_equal(zero[:, :, 0], zero[:, :, 1])


def test_seeded_numpy_encryption_repeats_bit_for_bit():
    parameters = profile("light")
    runs = []
    for _ in range(2):
        source = InsecureSeededRandom(3, "client")
        a = common_polynomial(parameters, b"test")
        secret = SecretKey.generate(parameters, source)
        b = secret.public_share(parameters, a, source)
        runs.append(NumpyBackend().encrypt_zero(parameters, b, a, 2, source))
    assert np.array_equal(runs[0], runs[1])


def test_auto_prefers_tenseal_and_seeded_sources_get_numpy():
    assert make_backend("auto", SOURCE).name == "tenseal"
    assert make_backend("auto", InsecureSeededRandom(0, "x")).name == "numpy"
    with pytest.raises(ConfigurationError, match="cannot be seeded"):
        make_backend("tenseal", InsecureSeededRandom(0, "x"))
    with pytest.raises(ConfigurationError, match="did you mean 'tenseal'"):
        make_backend("tenseall", SOURCE)


@pytest.fixture
def fresh_self_test():
    backend_tenseal.self_test.cache_clear()
    yield
    backend_tenseal.self_test.cache_clear()


def test_another_tenseal_version_falls_back_with_a_warning(monkeypatch, fresh_self_test):
    monkeypatch.setattr(backend_tenseal, "version", lambda _: "0.4.0")
    with pytest.raises(BackendUnavailableError, match=r"TenSEAL 0\.4\.0 is installed"):
        make_backend("tenseal", SOURCE)
    with pytest.warns(RuntimeWarning, match="encrypting with NumPy"):
        assert make_backend("auto", SOURCE).name == "numpy"


def test_missing_tenseal_says_how_to_install_it(monkeypatch, fresh_self_test):
    def missing(_: str) -> str:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(backend_tenseal, "version", missing)
    with pytest.raises(BackendUnavailableError, match=r"fedguard\[encryption\]"):
        make_backend("tenseal", SOURCE)


def test_a_changed_byte_format_is_noticed_by_the_self_test(monkeypatch, fresh_self_test):
    class Shifted:
        def __init__(self, data: Residues) -> None:
            self.data = data

    original = backend_tenseal.vector_ciphertexts
    monkeypatch.setattr(
        backend_tenseal,
        "vector_ciphertexts",
        lambda blob: [Shifted(np.roll(c.data, 1, axis=2)) for c in original(blob)],
    )
    with pytest.raises(BackendUnavailableError, match="self-test failed"):
        make_backend("tenseal", SOURCE)
