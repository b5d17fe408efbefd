"""Every parser of the protocol on bytes and fields of hypothesis' choosing: it reads or refuses."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedguard.encryption import secagg_checks
from fedguard.encryption.errors import BackendUnavailableError, ProtocolError
from fedguard.encryption.lattice import multikey, seal_format, threshold, wire
from fedguard.encryption.lattice import tenseal_vectors as vectors
from fedguard.encryption.lattice.profiles import profile
from fedguard.encryption.lattice.sampling import SystemRandom
from fedguard.encryption.protocol import agreement
from fedguard.encryption.protocol.agreement import Agreement
from fedguard.encryption.protocol.cohort_server import CohortServer
from fedguard.encryption.protocol.flow import hear
from fedguard.encryption.protocol.identity import Channel, check_channel, is_signed
from fedguard.encryption.protocol.ledger import LEDGER, Ledger
from fedguard.encryption.protocol.server import RoundServer
from fedguard.encryption.protocol.shared_key_server import SharedKeyServer
from fedguard.encryption.protocol.state import RoundState
from fedguard.encryption.protocol.transcript import SumTag

PROFILE = profile("default")
SCALAR = st.one_of(
    st.integers(-(1 << 70), 1 << 70),
    st.floats(allow_nan=True),
    st.text(max_size=10),
    st.binary(max_size=80),
    st.booleans(),
    st.lists(st.integers(-5, 1 << 65), max_size=7),
    st.lists(st.binary(max_size=70), max_size=7),
    st.lists(st.floats(), max_size=3),
)
HEADER = struct.pack("<4sBBI16s", b"FGHE", 1, 1, 1, PROFILE.digest)


def near(seed: bytes) -> st.SearchStrategy[bytes]:
    """Return bytes like a valid object: cut, lengthened, or with some bytes replaced."""

    def spoil(cut: int, patches: list[tuple[int, int]], tail: bytes) -> bytes:
        data = bytearray(seed[: len(seed) - cut] + tail)
        for position, value in patches:
            if data:
                data[position % len(data)] = value
        return bytes(data)

    patch = st.tuples(st.integers(0, max(len(seed) - 1, 0)), st.integers(0, 255))
    cut = st.sampled_from([0, 0, 0, 1, 8, len(seed) // 2])
    return st.builds(spoil, cut, st.lists(patch, max_size=4), st.sampled_from([b"", b"\x00"]))


def seeds() -> dict[str, bytes]:
    """Return one valid object of every kind that travels as bytes."""
    ring, keys = PROFILE.data_ring, PROFILE.key_ring
    one = ring.uniform(b"seed", 1)
    return {
        "key": multikey.write_key(PROFILE, keys.uniform(b"seed", 1)),
        "sum": wire.write(PROFILE, wire.SUM, list(enumerate(one))),
        "share": multikey.write_share(PROFILE, one[0]),
        "ciphertext": multikey.Ciphertext(one[0], one).to_bytes(PROFILE),
        "secret share": threshold.write_secret_share(PROFILE, one),
        "vector": vectors.write_vector(vectors.CHAIN, vectors.CHAIN.ring.uniform(b"seed", 2)),
        "secret": vectors.make_secret(vectors.CHAIN, SystemRandom()),
    }


READERS = {
    "key": lambda data: multikey.read_key(PROFILE, data),
    "sum": lambda data: multikey.read_sum(PROFILE, data),
    "share": lambda data: multikey.read_share(PROFILE, data),
    "ciphertext": lambda data: multikey.Ciphertext.from_bytes(PROFILE, data),
    "secret share": lambda data: threshold.read_secret_share(PROFILE, data),
    "vector": lambda data: vectors.read_vector(vectors.CHAIN, 1, data),
    "secret": lambda data: vectors.read_secret(vectors.CHAIN, data),
}
WRITERS = {
    "key": lambda found: multikey.write_key(PROFILE, found),
    "sum": lambda found: wire.write(PROFILE, wire.SUM, list(enumerate(found))),
    "share": lambda found: multikey.write_share(PROFILE, found),
    "ciphertext": lambda found: found.to_bytes(PROFILE),
    "secret share": lambda found: threshold.write_secret_share(PROFILE, found),
    "vector": lambda found: vectors.write_vector(vectors.CHAIN, found),
    "secret": lambda found: found.astype(np.int8).tobytes(),
}
SEEDS = seeds()

OPEN = SystemRandom()
MINE = Channel(OPEN.bytes(32))


def server(kind: type[CohortServer]) -> CohortServer:
    return kind(Agreement(1, 0, (1, 2, 3), "default", "coefficients"), 10)


def fields(*names: str) -> st.SearchStrategy[dict[str, object]]:
    return st.dictionaries(st.sampled_from(names), SCALAR)


TERMS = {"round": 1, "attempt": 0, "cohort": [1, 2, 3], "profile": "default"}
TERMS |= {"packing": "coefficients", "threshold": 0}


def take(kind: type[CohortServer], stage: str, reply: dict[str, object]) -> None:
    """Let a server read one reply; whatever it is, the fault is noted and nothing raises."""
    made = server(kind)
    made.members = made.agreement.cohort
    made._commits = {1: reply}
    if stage == "commit":
        made._commits = {}
        made.take_commits({1: reply})
    elif (isinstance(made, RoundServer) and stage == "ciphertext") or isinstance(
        made, SharedKeyServer
    ):
        made.take_ciphertexts({1: reply})
    assert 1 in made.faults or 1 in made.present


TARGETS = {
    "terms": (fields(*TERMS), lambda found: Agreement.from_payload({**TERMS, **found})),
    "exponents": (fields("x"), lambda found: agreement.get_exponents(found, "x")),
    "parties": (fields("x"), lambda found: agreement.get_parties(found, "x", (1, 2, 3))),
    "commit": (
        fields("commitment", "channel", "signature", "public", "exponent"),
        lambda found: take(RoundServer, "commit", found),
    ),
    "ciphertext reply": (
        fields("ciphertext", "tag"),
        lambda found: take(RoundServer, "ciphertext", found),
    ),
    "shared-key reply": (
        fields("ciphertext", "tag"),
        lambda found: take(SharedKeyServer, "ciphertext", found),
    ),
    "refusal": (
        fields("refused", "accused", "disputed", "share"),
        lambda found: hear({1: {"share": found}}, "share", {}).convict([1, 2], {1: "no"}),
    ),
    "state": (
        fields("secret", "stage", "present", "commitments", "seeds", "members", "model"),
        lambda found: RoundState.from_payload({**TERMS, **found}),
    ),
    "ledger": (
        st.fixed_dictionaries({"rounds": SCALAR, "models": SCALAR, "cohorts": SCALAR}),
        lambda found: Ledger({LEDGER: found}),
    ),
    "secagg keys": (fields("pk1", "pk2"), secagg_checks.read_keys),
    "secagg boxes": (
        fields("dsts", "ctxts"),
        lambda found: secagg_checks.read_boxes(found, [1, 2]),
    ),
    "secagg vectors": (
        fields("masked_params"),
        lambda found: secagg_checks.read_vectors(found, 10, 1 << 32),
    ),
    "secagg shares": (
        fields("shares", "nids"),
        lambda found: secagg_checks.read_shares(found, [1], [2], 3),
    ),
    "channel": (st.binary(max_size=40), check_channel),
    "signature": (st.binary(max_size=70), lambda data: is_signed(data, b"statement", data)),
    "sealed": (
        st.binary(max_size=80),
        lambda data: MINE.open(MINE.public, 1, 2, b"view", data),
    ),
    "tags": (
        st.lists(st.binary(max_size=40), max_size=3),
        lambda tags: SumTag.add_tags(PROFILE.data_ring, tags),
    ),
    "bits": (st.binary(max_size=64), lambda data: wire.unpack_bits(data, 13, 16)),
}

SHORT = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
LONG = settings(SHORT, max_examples=20_000)


def read_or_refuse(name: str, value: object) -> None:
    try:
        TARGETS[name][1](value)
    except ProtocolError:
        return


def read_back(name: str, data: bytes) -> None:
    """What a reader takes, it took in full: written again it is the same bytes."""
    try:
        found = READERS[name](data)
    except ProtocolError:
        return
    assert WRITERS[name](found) == data


@pytest.mark.parametrize("name", TARGETS)
def test_fields_are_read_or_refused(name):
    SHORT(given(TARGETS[name][0])(lambda value: read_or_refuse(name, value)))()


@pytest.mark.parametrize("name", SEEDS)
def test_bytes_are_read_in_full_or_refused(name):
    read_back(name, SEEDS[name])
    assert WRITERS[name](READERS[name](SEEDS[name])) == SEEDS[name]
    SHORT(given(near(SEEDS[name]))(lambda data: read_back(name, data)))()


def read_seal(data: bytes) -> None:
    try:
        seal_format.vector_ciphertexts(data)
    except BackendUnavailableError:
        return


def seal_seed() -> bytes:
    plain = seal_format.SealCiphertext(
        bytes(32), 1, 1.0, bytes(8), (4, 1), np.zeros((2, 2, 8), dtype=np.uint64)
    )
    return seal_format.write_protobuf([(1, 2, b"\x04"), (2, 2, plain.dump()), (3, 1, bytes(8))])


def test_what_is_not_the_known_byte_format_is_a_surprise_and_nothing_else():
    assert len(seal_format.vector_ciphertexts(seal_seed())) == 1
    SHORT(given(near(seal_seed()))(read_seal))()
    SHORT(given(st.binary(max_size=200))(read_seal))()


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_fields_for_long(name):
    LONG(given(TARGETS[name][0])(lambda value: read_or_refuse(name, value)))()


@pytest.mark.slow
@pytest.mark.parametrize("name", SEEDS)
def test_bytes_for_long(name):
    LONG(given(near(SEEDS[name]))(lambda data: read_back(name, data)))()
    LONG(given(near(seal_seed()))(read_seal))()
