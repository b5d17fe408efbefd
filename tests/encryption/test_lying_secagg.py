"""SecAgg+ with one of six clients that sends malformed or lying replies."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from encrypted_clients import LAYOUT, FixedClients, error, first_model, small
from flwr.app import ConfigRecord
from flwr.common.secure_aggregation.crypto.shamir import create_shares
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key
from flwr.supercore.primitives.asymmetric import (
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)

from fedguard.encryption import secagg_checks as checks
from fedguard.encryption.errors import ProtocolError
from fedguard.encryption.secagg import SecAggPlus
from fedguard.errors import RunError
from fedguard.grids.base import WrappedGrid

CLIENTS, LIAR = 6, 2
HONEST = [0, 1, 3, 4, 5]
Lie = Callable[[dict[str, Any]], dict[str, Any]]


def put(field: str, value: object) -> Lie:
    return lambda reply: {**reply, field: value}


def change(field: str, how: Callable[[Any], Any]) -> Lie:
    return lambda reply: {**reply, field: how(reply[field])}


def npy(array: np.ndarray) -> bytes:
    written = io.BytesIO()
    np.save(written, array)
    return written.getvalue()


def fresh_key() -> bytes:
    return public_key_to_bytes(generate_key_pairs()[1])


ONE_KEY = fresh_key()
HUGE_HEADER = npy(np.zeros((4,), dtype=np.int64)).replace(b"(4,)", b"(1000000000000,)")
EMPTY: Lie = lambda _: {}  # noqa: E731
KEYS: dict[str, Lie] = {
    "nothing": EMPTY,
    "no key": put(Key.PUBLIC_KEY_1, b""),
    "text for a key": put(Key.PUBLIC_KEY_1, "PEM"),
    "number for a key": put(Key.PUBLIC_KEY_2, 7),
    "garbage": put(Key.PUBLIC_KEY_1, bytes(range(256))),
    "garbage in the second": put(Key.PUBLIC_KEY_2, b"-----BEGIN PUBLIC KEY-----\n"),
    "cut short": change(Key.PUBLIC_KEY_1, lambda key: key[:-20]),
    "with a tail": change(Key.PUBLIC_KEY_1, lambda key: key + b"\n"),
    "very long": put(Key.PUBLIC_KEY_1, ONE_KEY * 1000),
    "a private key": put(Key.PUBLIC_KEY_1, private_key_to_bytes(generate_key_pairs()[0])),
    "the same twice": lambda r: {**r, Key.PUBLIC_KEY_1: r[Key.PUBLIC_KEY_2]},
    "a list": put(Key.PUBLIC_KEY_1, [ONE_KEY]),
}
BOXES: dict[str, Lie] = {
    "nothing": EMPTY,
    "no targets": put(Key.DESTINATION_LIST, []),
    "no boxes": put(Key.CIPHERTEXT_LIST, []),
    "text": put(Key.CIPHERTEXT_LIST, "boxes"),
    "numbers": put(Key.CIPHERTEXT_LIST, [1, 2, 3, 4, 5]),
    "strangers": put(Key.DESTINATION_LIST, [90, 91, 92, 93, 94]),
    "one twice": change(Key.DESTINATION_LIST, lambda nodes: [nodes[0], *nodes[:-1]]),
    "itself": change(Key.DESTINATION_LIST, lambda nodes: [LIAR, *nodes[1:]]),
    "floats": change(Key.DESTINATION_LIST, lambda nodes: [float(node) for node in nodes]),
    "one box too few": change(Key.CIPHERTEXT_LIST, lambda boxes: boxes[:-1]),
    "very long": change(Key.CIPHERTEXT_LIST, lambda boxes: [box * 100 for box in boxes]),
    "garbage": change(Key.CIPHERTEXT_LIST, lambda boxes: [b"gA" * 40 for _ in boxes]),
    "one bit": change(Key.CIPHERTEXT_LIST, lambda boxes: [b"x" + box[1:] for box in boxes]),
    "mixed up": change(Key.CIPHERTEXT_LIST, lambda boxes: [*boxes[1:], boxes[0]]),
    "empty": change(Key.CIPHERTEXT_LIST, lambda boxes: [b"" for _ in boxes]),
}
SIZE = LAYOUT.size
GOOD = [npy(np.zeros(1, dtype=np.int64)), npy(np.zeros(SIZE, dtype=np.int64))]
VECTORS: dict[str, Lie] = {
    "nothing": EMPTY,
    "no vectors": put(Key.MASKED_PARAMETERS, []),
    "one vector": put(Key.MASKED_PARAMETERS, GOOD[:1]),
    "three vectors": put(Key.MASKED_PARAMETERS, [*GOOD, GOOD[0]]),
    "text": put(Key.MASKED_PARAMETERS, "vectors"),
    "garbage": put(Key.MASKED_PARAMETERS, [b"garbage", b"more"]),
    "a terabyte in the header": put(Key.MASKED_PARAMETERS, [GOOD[0], HUGE_HEADER]),
    "too short": put(Key.MASKED_PARAMETERS, [GOOD[0], npy(np.zeros(SIZE - 1, dtype=np.int64))]),
    "too long": put(Key.MASKED_PARAMETERS, [GOOD[0], npy(np.zeros(SIZE + 1, dtype=np.int64))]),
    "a tail": put(Key.MASKED_PARAMETERS, [GOOD[0], GOOD[1] + bytes(8)]),
    "cut": put(Key.MASKED_PARAMETERS, [GOOD[0], GOOD[1][:-8]]),
    "a matrix": put(Key.MASKED_PARAMETERS, [GOOD[0], npy(np.zeros((SIZE, 1), dtype=np.int64))]),
    "floats": put(Key.MASKED_PARAMETERS, [GOOD[0], npy(np.zeros(SIZE))]),
    "negative": put(Key.MASKED_PARAMETERS, [GOOD[0], npy(np.full(SIZE, -1, dtype=np.int64))]),
    "beyond the modulus": put(Key.MASKED_PARAMETERS, [npy(np.array([1 << 32])), GOOD[1]]),
    "objects": put(
        Key.MASKED_PARAMETERS, [GOOD[0], b"\x93NUMPY\x01\x00v\x00{'descr': '|O', " + bytes(99)]
    ),
}


def other_indices(shares: list[bytes]) -> list[bytes]:
    return [(99).to_bytes(4, "little") + share[4:] for share in shares]


SHARES: dict[str, Lie] = {
    "nothing": EMPTY,
    "no shares": put(Key.SHARE_LIST, []),
    "text": put(Key.SHARE_LIST, "shares"),
    "numbers": put(Key.SHARE_LIST, [1] * 6),
    "one too few": change(Key.SHARE_LIST, lambda shares: shares[:-1]),
    "of strangers": put(Key.NODE_ID_LIST, [90, 91, 92, 93, 94, 95]),
    "in another order": change(Key.NODE_ID_LIST, lambda nodes: nodes[::-1]),
    "empty": change(Key.SHARE_LIST, lambda shares: [b"" for _ in shares]),
    "cut": change(Key.SHARE_LIST, lambda shares: [share[:-16] for share in shares]),
    "longer": change(Key.SHARE_LIST, lambda shares: [share + bytes(16) for share in shares]),
    "index 0": change(Key.SHARE_LIST, lambda shares: [bytes(4) + share[4:] for share in shares]),
    "index 99": change(Key.SHARE_LIST, other_indices),
}


def next_indices(shares: list[bytes]) -> list[bytes]:
    return [bytes([share[0] % CLIENTS + 1]) + share[1:] for share in shares]


FALSE_SHARES: dict[str, Lie] = {
    "one bit": change(Key.SHARE_LIST, lambda shares: [s[:9] + b"x" + s[10:] for s in shares]),
    "one of them": change(Key.SHARE_LIST, lambda s: [s[0][:9] + b"x" + s[0][10:], *s[1:]]),
    "mixed up": change(Key.SHARE_LIST, lambda shares: [*shares[1:], shares[0]]),
    "another's index": change(Key.SHARE_LIST, next_indices),
}
TRIPS = {"keys": KEYS, "boxes": BOXES, "vectors": VECTORS, "shares": SHARES}


class Lying(WrappedGrid):
    """Changes what one client replies in one trip."""

    def __init__(self, inner: Any, trip: int, lie: Lie, liar: int) -> None:
        super().__init__(inner)
        self.trip, self.lie, self.liar, self.now = trip, lie, liar, -1

    def send_and_receive(self, messages, *, timeout=None):
        self.now += 1
        replies = list(self.inner.send_and_receive(messages, timeout=timeout))
        for reply in replies:
            if self.now == self.trip and reply.metadata.src_node_id == self.liar:
                records = reply.content.config_records
                records[RECORD_KEY_CONFIGS] = ConfigRecord(
                    self.lie(dict(records[RECORD_KEY_CONFIGS]))
                )
        return replies


class LyingRun:
    def __init__(self, trip: str, lie: Lie, liar: int = LIAR, **options: Any) -> None:
        self.strategy = SecAggPlus(**options, **small(CLIENTS))
        self.truth = FixedClients(CLIENTS)
        inner = self.strategy.client_side(self.truth)
        self.grid = Lying(inner, list(TRIPS).index(trip), lie, liar)
        self.seen: list[Any] = []
        self.strategy.observers.append(lambda _, updates, verdict: self.seen.append(updates))

    def round(self):
        arrays = first_model()
        before = LAYOUT.vector_from_arrays(arrays).double()
        messages = self.strategy.configure_train(1, arrays, ConfigRecord(), self.grid)
        replies = self.grid.send_and_receive(messages)
        found, _ = self.strategy.aggregate_train(1, replies)
        return LAYOUT.vector_from_arrays(found).double() - before


@pytest.mark.parametrize(
    ("trip", "name"),
    [(trip, name) for trip in ("keys", "boxes", "vectors") for name in TRIPS[trip]],
)
def test_a_round_closes_without_the_liar(trip, name):
    run = LyingRun(trip, TRIPS[trip][name])
    assert error(run.round(), run.truth.mean(1, HONEST)) < 2e-4
    assert set(run.seen[-1].malformed) == {LIAR}


@pytest.mark.parametrize("name", SHARES)
def test_malformed_shares_are_not_needed(name):
    run = LyingRun("shares", SHARES[name])
    assert error(run.round(), run.truth.mean(1)) < 2e-4, "its update is in the sum"
    assert set(run.strategy._faults) == {LIAR}


@pytest.mark.parametrize("name", FALSE_SHARES)
@pytest.mark.parametrize("liar", [0, LIAR, 5])
def test_false_shares_are_found_out(name, liar):
    run = LyingRun("shares", FALSE_SHARES[name], liar)
    assert error(run.round(), run.truth.mean(1)) < 2e-4
    assert run.strategy._faults == {liar: "its shares do not fit those of the others"}


def test_false_shares_that_every_other_share_is_needed_for_end_the_round():
    """Where the padding is spoilt; a false share elsewhere goes unnoticed without spare ones."""
    spoilt = change(Key.SHARE_LIST, lambda shares: [s[:-16] + bytes(16) for s in shares])
    run = LyingRun("shares", spoilt, reconstruction_threshold=1.0)
    with pytest.raises(RunError, match="nothing was unmasked"):
        run.round()


def test_a_key_that_two_clients_send_counts_for_neither():
    keys = {1: [b"a", b"b"], 2: [b"c", b"d"], 3: [b"e", b"a"]}
    assert checks.repeated_keys(keys) == {1, 3}


def test_recovery_finds_the_one_polynomial_that_most_shares_lie_on():
    secret = bytes(range(32))
    dealt = dict(enumerate(create_shares(secret, 3, 6)))
    found, liars = checks.recover({7: dealt}, 3, lambda *_: True)
    assert found == {7: secret}
    assert not liars
    bent = {**dealt, 4: dealt[4][:10] + b"!" + dealt[4][11:]}
    assert checks.recover({7: bent}, 3, lambda *_: True) == ({7: secret}, {4})
    two = {**bent, 0: dealt[0][:10] + b"!" + dealt[0][11:]}
    with pytest.raises(ProtocolError, match="do not fit each other"):
        checks.recover({7: two}, 3, lambda *_: True)


@pytest.mark.parametrize(("count", "threshold"), [(5, 3), (6, 5), (6, 2), (7, 4), (4, 4)])
def test_every_share_is_missing_from_one_of_the_subsets_that_are_tried(count, threshold):
    parts = [bytes([index]) for index in range(count)]
    subsets = checks._subsets(parts, threshold)
    assert all(len(few) == threshold for few in subsets)
    missing = {part for few in subsets for part in parts if part not in few}
    assert missing == (set(parts) if count > threshold else set())


def test_a_private_key_is_the_one_of_its_public_key_alone():
    mine, public = generate_key_pairs()
    written = private_key_to_bytes(mine)
    assert len(written) == 306, "what shares of keys are checked against"
    assert checks.opens(public_key_to_bytes(public), written)
    assert not checks.opens(ONE_KEY, written)
    assert not checks.opens(ONE_KEY, b"garbage")
