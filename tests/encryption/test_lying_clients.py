"""One of six clients sends malformed or lying replies; the round goes on without it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from encrypted_clients import LAYOUT, FixedClients, error, first_model
from flwr.app import ConfigRecord, Message
from hostile_server import make_strategy

from fedguard.encryption.lattice.profiles import profile
from fedguard.encryption.lattice.sampling import SystemRandom
from fedguard.encryption.protocol.identity import Identity
from fedguard.encryption.protocol.records import PREFIX
from fedguard.errors import RunError
from fedguard.grids.base import WrappedGrid

CLIENTS = 6
LIAR = 2
HONEST = [0, 1, 3, 4, 5]

Lie = Callable[[dict[str, Any]], dict[str, Any]]


def replaced(field: str, value: object) -> Lie:
    """Put a value in place of a field."""
    return lambda reply: {**reply, field: value}


def without(field: str) -> Lie:
    """Leave a field out."""
    return lambda reply: {name: value for name, value in reply.items() if name != field}


def changed(field: str, change: Callable[[Any], Any]) -> Lie:
    """Change the value of a field that is there."""
    return lambda reply: {**reply, field: change(reply[field])} if field in reply else reply


def flipped(data: bytes) -> bytes:
    """Turn one bit in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def last_flipped(data: bytes) -> bytes:
    """Turn one bit at the end."""
    return data[:-1] + bytes([data[-1] ^ 1])


ZSTD_BOMB = bytes.fromhex("28b52ffda0ffffff3f") + bytes(100)
SEAL = struct.pack("<HBBBBHQ", 0xA15E, 16, 4, 0, 2, 0, 16 + len(ZSTD_BOMB)) + ZSTD_BOMB
GARBAGE = np.random.default_rng(0).bytes(4000)


def lies_about(field: str) -> dict[str, Lie]:
    """Return what can be wrong with a field of bytes."""
    return {
        f"{field}: missing": without(field),
        f"{field}: text": replaced(field, "text"),
        f"{field}: number": replaced(field, 7),
        f"{field}: list": replaced(field, [b"a", b"b"]),
        f"{field}: empty": replaced(field, b""),
        f"{field}: garbage": replaced(field, GARBAGE),
        f"{field}: cut short": changed(field, lambda data: data[:-1]),
        f"{field}: too long": changed(field, lambda data: data + b"\\x00"),
        f"{field}: all ones": changed(field, lambda data: b"\\xff" * len(data)),
    }


COMMIT = {
    **lies_about("commitment"),
    **lies_about("signature"),
    "channel: low order": replaced("channel", bytes(32)),
    "channel: short": replaced("channel", bytes(3)),
    "channel: changed": changed("channel", flipped),
    "commitment: changed": changed("commitment", flipped),
    "signature: changed": changed("signature", flipped),
    "public: another": changed("public", lambda _: Identity.generate(SystemRandom()).public),
    "exponent: negative": replaced("exponent", -1),
    "exponent: huge": replaced("exponent", 10**9),
    "exponent: changed": changed("exponent", lambda value: value + 1),
    "exponent: text": replaced("exponent", "6"),
    "exponent: float": replaced("exponent", 6.0),
    "nothing at all": lambda _: {},
}


def boxes(change: Callable[[bytes], bytes]) -> Lie:
    """Change every sealed message."""
    return changed("sealed", lambda sealed: [change(box) for box in sealed])


REVEAL = {
    **lies_about("key"),
    "key: changed": changed("key", last_flipped),
    "nonce: changed": changed("nonce", flipped),
    "nonce: missing": without("nonce"),
    "nonce: list": replaced("nonce", [1, 2]),
    "sealed: missing": without("sealed"),
    "sealed: one too few": changed("sealed", lambda sealed: sealed[:-1]),
    "sealed: numbers": replaced("sealed", [1, 2, 3, 4, 5, 6]),
    "sealed: empty boxes": boxes(lambda _: b""),
    "sealed: garbage": boxes(lambda box: bytes(len(box))),
    "sealed: one bit": boxes(flipped),
    "sealed: longer": boxes(lambda box: box + b"\\x00"),
    "sealed: mixed up": changed("sealed", lambda sealed: sealed[::-1]),
}
ENCRYPT = {
    **lies_about("ciphertext"),
    **lies_about("tag"),
    "tag: changed": changed("tag", flipped),
    "ciphertext: changed": changed("ciphertext", last_flipped),
    "ciphertext: SEAL object with a bomb": replaced("ciphertext", SEAL),
}
SHARE = {**lies_about("share")}
PRIME = profile("default").message_modulus


class Lying(WrappedGrid):
    """Changes what one client replies to one stage, in all rounds and attempts."""

    def __init__(self, inner: Any, stage: str, lie: Lie, liar: int = LIAR) -> None:
        super().__init__(inner)
        self.stage, self.lie, self.liar = stage, lie, liar
        self.lied = 0

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        replies = list(self.inner.send_and_receive(messages, timeout=timeout))
        for reply in replies:
            records = reply.content.config_records
            name = PREFIX + self.stage
            if reply.metadata.src_node_id == self.liar and name in records:
                self.lied += 1
                records[name] = ConfigRecord(self.lie(dict(records[name])))
        return replies


class LyingRun:
    """Rounds with a liar; fails if anything but the liar's update is missing."""

    def __init__(self, scheme: str, stage: str, lie: Lie, liar: int = LIAR, **options) -> None:
        self.strategy = make_strategy(scheme, CLIENTS, **options)
        self.truth = FixedClients(CLIENTS)
        self.grid = Lying(self.strategy.client_side(self.truth), stage, lie, liar)
        self.seen: list[Any] = []
        self.strategy.observers.append(lambda _, updates, verdict: self.seen.append(updates))

    def round(self, server_round: int):
        arrays = LAYOUT.to_arrays(LAYOUT.vector_from_arrays(first_model()) + 0.5 * server_round)
        before = LAYOUT.vector_from_arrays(arrays).double()
        messages = self.strategy.configure_train(server_round, arrays, ConfigRecord(), self.grid)
        replies = self.grid.send_and_receive(messages)
        found, _ = self.strategy.aggregate_train(server_round, replies)
        return LAYOUT.vector_from_arrays(found).double() - before

    def check(self, liar: int = LIAR, rounds: int = 1) -> None:
        honest = [party for party in range(CLIENTS) if party != liar]
        for server_round in range(1, rounds + 1):
            added = self.round(server_round)
            assert error(added, self.truth.mean(server_round, honest)) < 2e-5
            assert self.seen[-1].node_ids == tuple(honest)
            assert set(self.seen[-1].malformed) == {liar}
        assert self.grid.lied


STAGES = {"commit": COMMIT, "reveal": REVEAL, "encrypt": ENCRYPT}
CASES = [(stage, name) for stage, lies in STAGES.items() for name in lies]


@pytest.mark.parametrize(("stage", "name"), CASES)
def test_a_round_of_multi_key_ckks_closes_without_the_liar(stage, name):
    LyingRun("xmkckks", stage, STAGES[stage][name]).check()


@pytest.mark.parametrize(("stage", "name"), CASES)
def test_a_round_with_a_threshold_closes_without_the_liar(stage, name):
    LyingRun("xmkckks", stage, STAGES[stage][name], threshold=4).check()


@pytest.mark.parametrize("name", SHARE)
def test_with_a_threshold_a_malformed_share_is_not_needed(name):
    run = LyingRun("xmkckks", "share", SHARE[name], threshold=4)
    for server_round in (1, 2):
        added = run.round(server_round)
        assert error(added, run.truth.mean(server_round)) < 2e-5, "its update is in the sum"
        assert "share" in run.strategy._groups[0].faults[LIAR]


@pytest.mark.parametrize("liar", [0, 2, 3])
def test_with_a_threshold_a_false_share_is_found_out_and_its_sender_named(liar):
    """Well-formed and wrong: the first liar is in the first quorum, and the others are not."""
    run = LyingRun("xmkckks", "share", changed("share", last_flipped), liar, threshold=4)
    added = run.round(1)
    assert error(added, run.truth.mean(1)) < 2e-5
    assert run.strategy._groups[0].faults == {
        liar: "sent a decryption share that is not of the sum"
    }


@pytest.mark.parametrize("name", SHARE)
def test_where_all_must_answer_a_malformed_share_ends_the_round_and_names_its_sender(name):
    run = LyingRun("xmkckks", "share", SHARE[name])
    with pytest.raises(RunError, match=f"nothing was decrypted; client {LIAR}: "):
        run.round(1)


def test_where_all_must_answer_a_false_share_ends_the_round_and_nobody_is_blamed():
    run = LyingRun("xmkckks", "share", changed("share", last_flipped))
    with pytest.raises(RunError, match="checksums are wrong") as caught:
        run.round(1)
    assert "client" not in str(caught.value).split("resume")[0]


@pytest.mark.parametrize("name", ["sealed: garbage", "nonce: changed"])
def test_a_liar_is_asked_again_in_the_next_round_and_caught_again(name):
    LyingRun("xmkckks", "reveal", REVEAL[name]).check(rounds=3)


SHARED = {
    "commit": COMMIT,
    "reveal": {name: lie for name, lie in REVEAL.items() if name.startswith("sealed")},
    "check": {"garbage": lambda _: {"refused": 7, "disputed": 1}},
    "encrypt": ENCRYPT,
    "confirm": lies_about("signature"),
    "share": lies_about("values"),
}


@pytest.mark.parametrize(
    ("stage", "name"), [(s, n) for s in ("commit", "encrypt") for n in SHARED[s]]
)
def test_a_round_of_plain_ckks_closes_without_the_liar(stage, name):
    pytest.importorskip("tenseal")
    LyingRun("ckks", stage, SHARED[stage][name]).check()


@pytest.mark.parametrize("name", SHARED["reveal"])
def test_a_leader_that_makes_no_key_is_left_out(name):
    pytest.importorskip("tenseal")
    LyingRun("ckks", "reveal", SHARED["reveal"][name], liar=0).check(liar=0)


@pytest.mark.parametrize(
    ("stage", "name"), [(s, n) for s in ("check", "confirm", "share") for n in SHARED[s]]
)
def test_an_opener_that_answers_nonsense_is_not_needed(stage, name):
    """The liar's update is in the sum, which needs neither its word nor its answer."""
    pytest.importorskip("tenseal")
    run = LyingRun("ckks", stage, SHARED[stage][name])
    added = run.round(1)
    assert error(added, run.truth.mean(1)) < 2e-5
    assert set(run.strategy._groups[0].faults) == ({LIAR} if stage != "check" else set())


def shifted(data: bytes) -> bytes:
    """Add to one opened value what a client could have sent."""
    values = np.frombuffer(data, dtype="<f8").copy()
    values[3] += 0.01
    return values.tobytes()


@pytest.mark.parametrize("liar", [1, 2, 3])
def test_an_opener_that_releases_other_values_is_outvoted_and_named(liar):
    """Clients 1, 2 and 3 open round 1; each floods anew, so that honest ones are not equal."""
    pytest.importorskip("tenseal")
    run = LyingRun("ckks", "share", changed("values", shifted), liar)
    added = run.round(1)
    assert error(added, run.truth.mean(1)) < 2e-5
    assert run.strategy._groups[0].faults == {liar: "released other values than the other openers"}
    assert run.grid.lied == 1
