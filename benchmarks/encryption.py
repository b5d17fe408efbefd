"""Cost and error of encrypted aggregation beside stock TenSEAL, in one run on one core.

    OMP_NUM_THREADS=1 python benchmarks/encryption.py [--quick] [--json FILE]

Times are CPU seconds of one client, minimum over repetitions. "Stock" is
``tenseal.ckks_vector(context, values)`` with ring degree 8192, primes of [60, 40, 40, 60] bits and
scale 2^40, the recipe of most tutorials; its serialisation is listed beside it, ours is included.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tenseal as ts

from fedguard.encryption.attacks import ATTACKS
from fedguard.encryption.errors import LostRoundError
from fedguard.encryption.lattice.backend import BackendName, make_backend
from fedguard.encryption.lattice.profiles import PROFILES
from fedguard.encryption.lattice.sampling import SystemRandom
from fedguard.encryption.protocol.agreement import Agreement
from fedguard.encryption.protocol.client import ClientSession
from fedguard.encryption.protocol.identity import Identity, Roster
from fedguard.encryption.protocol.ledger import Training
from fedguard.encryption.protocol.server import RoundServer
from fedguard.encryption.protocol.shared_key import SharedKeyClient
from fedguard.encryption.protocol.shared_key_server import SharedKeyServer

T = TypeVar("T")
STOCK = {
    "8192 [60,40,40,60]": (8192, [60, 40, 40, 60]),
    "8192 [60,40,60]": (8192, [60, 40, 60]),
    "8192 [60,60]": (8192, [60, 60]),
    "4096 [54,55]": (4096, [54, 55]),
}
TRAINING = Training(1, b"a model")
DISTINCT = 3
"""Distinct updates per measurement; the others repeat them, under keys of their own."""


@dataclass(frozen=True)
class Row:
    """One measurement beside its bar."""

    what: str
    value: float
    unit: str
    bar: float | None = None

    @property
    def line(self) -> str:
        """The row of the table."""
        bar = "" if self.bar is None else f"<= {self.bar:g}"
        verdict = "" if self.bar is None else "met" if self.value <= self.bar else "MISSED"
        return f"{self.what:58s} {self.value:12.4g} {self.unit:10s} {bar:10s} {verdict}"


def timed(function: Callable[[], T]) -> tuple[float, T]:
    """Return CPU seconds and result of one call."""
    started = time.process_time()
    result = function()
    return time.process_time() - started, result


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what TenSEAL prints about long vectors."""
    saved, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(nowhere)


def stock_encryption(size: int, repetitions: int) -> tuple[float, list[Row]]:
    """Return stock TenSEAL's encryption time, and rows with its sizes."""
    values = np.random.default_rng(0).normal(0, 0.05, size)
    rows, reference = [], 0.0
    for name, (degree, bits) in STOCK.items():
        context = ts.context(ts.SCHEME_TYPE.CKKS, degree, coeff_mod_bit_sizes=bits)
        context.global_scale = 2.0**40
        times = []
        with quiet():
            for _ in range(repetitions if not rows else 1):
                seconds, vector = timed(lambda c=context: ts.ckks_vector(c, values))
                times.append(seconds)
            written, blob = timed(vector.serialize)
        if not rows:
            reference = min(times)
            rows.append(Row(f"stock TenSEAL {name}: encrypt {size:,}", reference, "s"))
            rows.append(Row(f"stock TenSEAL {name}: serialise", written, "s"))
        rows.append(Row(f"stock TenSEAL {name}: upload", len(blob) / 4 / size, "x float32"))
    return reference, rows


class Federation:
    """Clients and server of one encrypted round, with the time each stage takes."""

    def __init__(
        self,
        clients: int,
        size: int,
        backend: BackendName,
        threshold: int = 0,
        profile: str = "default",
    ) -> None:
        source = SystemRandom()
        engine = make_backend(backend, source)
        parties = tuple(range(clients))
        identities = {party: Identity.generate(source) for party in parties}
        roster = Roster({party: key.public for party, key in identities.items()})
        self.sessions = {
            party: ClientSession(party, key, roster, engine, source, {})
            for party, key in identities.items()
        }
        agreement = Agreement(1, 0, parties, profile, "coefficients", threshold)
        self.server = RoundServer(agreement, size)
        rng = np.random.default_rng(0)
        self.updates = [rng.normal(0, 0.05, size) for _ in range(min(DISTINCT, clients))]
        self.seconds: dict[str, float] = {}
        self.bytes: dict[str, int] = {}

    def update(self, party: int) -> np.ndarray:
        """Return the update of a client."""
        return self.updates[party % len(self.updates)]

    @property
    def mean(self) -> np.ndarray:
        """The true mean."""
        return np.mean([self.update(party) for party in self.sessions], axis=0)

    def stage(
        self, name: str, requests: Mapping[int, Any], answer: Callable[[int, Any], Any]
    ) -> dict[int, Any]:
        """Run one stage; note the fastest client's time and the reply's size."""
        times, replies = [], {}
        for party, request in requests.items():
            seconds, replies[party] = timed(lambda p=party, r=request: answer(p, r))
            times.append(seconds)
        self.seconds[name] = min(times)
        reply = next(iter(replies.values()))
        self.bytes[name] = sum(_size(value) for value in reply.values())
        return replies

    def upload(self) -> None:
        """Run the stages up to the sum of ciphertexts."""
        server = self.server
        server.take_commits(
            self.stage(
                "commit", server.commit_requests(), lambda p, r: self.sessions[p].commit(r, 64)
            )
        )
        server.take_reveals(
            self.stage("reveal", server.reveal_requests(), lambda p, r: self.sessions[p].reveal(r))
        )
        replies = self.stage(
            "encrypt",
            server.encrypt_requests(),
            lambda p, r: self.sessions[p].encrypt(r, self.update(p), 64, TRAINING),
        )
        self.seconds["add"], _ = timed(lambda: server.take_ciphertexts(replies))

    def open(self, alive: tuple[int, ...] | None = None) -> np.ndarray:
        """Ask for shares and fuse them."""
        asked = self.server.share_requests(alive)
        replies = self.stage("share", asked, lambda p, r: self.sessions[p].share(r))
        self.seconds["fuse"], found = timed(lambda: self.server.take_shares(asked, replies))
        return found.mean


def _size(value: Any) -> int:
    if isinstance(value, bytes):
        return len(value)
    return sum(map(_size, value)) if isinstance(value, list) else 8


def plain_round(clients: int, size: int, backend: BackendName, stock: float) -> list[Row]:
    """Return rows on error, bytes and times of one round with the default profile."""
    federation = Federation(clients, size, backend)
    federation.upload()
    error = float(np.abs(federation.open() - federation.mean).max())
    name = f"{backend}, {clients} x {size:,}"
    seconds, sent = federation.seconds, federation.bytes
    rows = [
        Row(f"{name}: largest error of the mean", error, "", 1e-5),
        Row(f"{name}: upload of ciphertexts", sent["encrypt"] / 4 / size, "x float32", 4.6),
        Row(f"{name}: upload of the share", sent["share"] / 4 / size, "x float32"),
        Row(f"{name}: upload of keys", (sent["commit"] + sent["reveal"]) / 1e3, "kB"),
        Row(f"{name}: make and commit to keys", seconds["commit"], "s"),
        Row(f"{name}: reveal", seconds["reveal"], "s"),
        Row(f"{name}: encrypt, tag, serialise", seconds["encrypt"], "s"),
        Row(f"{name}: check, share, serialise", seconds["share"], "s"),
        Row(f"{name}: server adds {clients} ciphertexts", seconds["add"], "s"),
        Row(f"{name}: server fuses", seconds["fuse"], "s"),
    ]
    if stock:
        rows.append(Row(f"{name}: encrypt over stock", seconds["encrypt"] / stock, "x", 1.1))
        rows.append(Row(f"{name}: share over stock", seconds["share"] / stock, "x", 0.4))
    return rows


def threshold_round(size: int) -> list[Row]:
    """Return rows on 50 clients with threshold 34 of which 17, then 16, vanish after upload."""
    federation = Federation(50, size, "auto", threshold=34)
    federation.upload()
    alive = tuple(federation.sessions)
    try:
        federation.open(alive[17:])
        raise AssertionError("17 lost clients were not noticed")
    except LostRoundError as error:
        print(f"threshold 34 of 50, 17 lost: {error}")
    error = float(np.abs(federation.open(alive[16:]) - federation.mean).max())
    return [
        Row(f"threshold 34 of 50, 16 lost, {size:,}: error of the mean", error, "", 1e-5),
        Row("threshold 34 of 50: deal key shares", federation.seconds["reveal"], "s"),
        Row("threshold 34 of 50: upload of key shares", federation.bytes["reveal"] / 1e6, "MB"),
    ]


def shared_key_round(clients: int, size: int) -> list[Row]:
    """Return rows on plain CKKS, one key pair for all clients, with its guards."""
    source = SystemRandom()
    identities = {party: Identity.generate(source) for party in range(clients)}
    roster = Roster({party: key.public for party, key in identities.items()})
    sessions = {
        party: SharedKeyClient(party, key, roster, source, {}) for party, key in identities.items()
    }
    server = SharedKeyServer(Agreement(1, 0, tuple(sessions), "default", "slots"), size)
    requests = server.commit_requests()
    server.take_commits({p: sessions[p].commit(r, 64) for p, r in requests.items()})
    requests = server.reveal_requests()
    server.take_reveals({p: sessions[p].reveal(r) for p, r in requests.items()})
    update = np.random.default_rng(0).normal(0, 0.05, size)
    times, replies = [], {}
    for party, request in server.encrypt_requests().items():
        seconds, replies[party] = timed(
            lambda p=party, r=request: sessions[p].encrypt(r, update, 64, TRAINING)
        )
        times.append(seconds)
    adding, _ = timed(lambda: server.take_ciphertexts(replies))
    confirmed = {p: sessions[p].confirm(r) for p, r in server.confirm_requests().items()}
    opener = server.take_confirmations(confirmed)[0]
    asked = server.share_requests(opener)
    request = asked[opener]
    opening, reply = timed(lambda: sessions[opener].share(request))
    error = float(np.abs(server.take_shares(asked, {opener: reply}).mean - update).max())
    sent = sum(_size(value) for value in replies[0].values())
    name = f"ckks, {clients} x {size:,}"
    return [
        Row(f"{name}: largest error of the mean", error, "", 1e-5),
        Row(f"{name}: upload of ciphertexts", sent / 4 / size, "x float32"),
        Row(f"{name}: encrypt, tag, serialise", min(times), "s"),
        Row(f"{name}: server adds", adding, "s"),
        Row(f"{name}: opener checks and decrypts", opening, "s"),
    ]


def attacks() -> list[Row]:
    """Run every attack, naive and guarded; return the time they take together."""
    started = time.process_time()
    for attack in ATTACKS.values():
        naive, guarded = attack(False), attack(True)
        print(naive.line)
        print(guarded.line)
        assert naive.succeeded
        assert not guarded.succeeded
    return [Row("all attacks, naive and guarded", time.process_time() - started, "s", 60.0)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the parameters")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    large, small = (100_000, 10_000) if options.quick else (1_000_000, 100_000)
    for profile in PROFILES.values():
        print(profile.describe())
    stock, rows = stock_encryption(large, 3)
    for backend in ("tenseal", "numpy"):
        rows += plain_round(50, small, backend, 0.0)
        rows += plain_round(10, large, backend, stock)
    rows += shared_key_round(10, small)
    rows += threshold_round(small)
    rows += attacks()
    print("\n".join(row.line for row in rows))
    if options.json:
        options.json.write_text(json.dumps([vars(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
