"""What enrolment costs per client and round: messages, key search, tokens, digests.

    OMP_NUM_THREADS=1 python -m benchmarks.enrolment [--parameters 1000000]

Every figure is the median processor time of some hundred repetitions, both sides together.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from fedguard.enrolment.base import _digest
from fedguard.enrolment.blind import blind, finish, make_key, sign_blinded, verify
from fedguard.enrolment.local import KeyedBytes, LocalLabels, LocalTokens
from fedguard.enrolment.tickets import TICKET, Place, Ticket
from fedguard.enrolment.tokens import BLIND_TICKET
from fedguard.layout import ParameterLayout
from fedguard.updates import StackedReplies

DIGEST = bytes(32)


def milliseconds(work: Callable[[int], object], repeats: int = 200) -> float:
    """Return the median processor time of a piece of work that is told its number."""
    times = []
    for number in range(repeats):
        started = time.thread_time()
        work(number)
        times.append(time.thread_time() - started)
    return 1e3 * statistics.median(times)


def labels(k: int) -> tuple[float, float, float]:
    """Return ms of a ticket, of the key search, and of all: ticket, registrar, aggregator."""
    parties = LocalLabels(4 * k, k, 0)
    everyone = len(parties.members)

    def whole(number: int) -> None:
        place = Place(1 + number // everyone)
        ticket = parties.ticket(number % everyone, place, DIGEST)
        parties.receive(place, ticket, DIGEST)

    ticket = milliseconds(lambda n: parties.ticket(n % everyone, Place(1), DIGEST))
    raw = [Ticket.from_bytes(parties.ticket(m, Place(1), DIGEST)) for m in range(everyone)]
    search = milliseconds(lambda n: parties.registrar.search(raw[n % everyone]))
    return ticket, search, milliseconds(whole)


def tokens() -> dict[str, float]:
    """Return ms of every step of a blind token, and of all of them."""
    key, random = make_key(), KeyedBytes(0, 0, "benchmark")
    public = key.public_key()
    blinded = blind(public, bytes(32), random)
    answer = sign_blinded(key, blinded.request, random)
    signature = finish(public, blinded, answer)
    parties = LocalTokens(256, 64, 0)
    parties.issuer.open(1)
    place = Place(1)

    def whole(number: int) -> None:
        parties.receive(place, parties.ticket(number, place, DIGEST), DIGEST)

    return {
        "blind": milliseconds(lambda _: blind(public, bytes(32), random)),
        "sign": milliseconds(lambda _: sign_blinded(key, blinded.request, random)),
        "unblind": milliseconds(lambda _: finish(public, blinded, answer)),
        "verify": milliseconds(lambda _: verify(public, blinded.message, signature)),
        "all": milliseconds(whole),
        "a round's key": milliseconds(lambda _: make_key(), 10),
    }


def digest(size: int) -> float:
    """Return ms of the digest of one update of `size` parameters."""
    layout = ParameterLayout.flat(size)
    replies = StackedReplies([_Named()], torch.randn(1, size), torch.ones(1), layout)
    return milliseconds(lambda _: _digest(replies, 0), 20)


class _Named:
    """A reply of which the digest reads the sender alone."""

    class metadata:  # noqa: N801
        src_node_id = 0


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--parameters", type=int, default=1_000_000)
    options = parser.parse_args()
    print(f"ticket {TICKET} bytes, with a blind token {BLIND_TICKET} bytes")
    for k in (16, 64, 256, 1024):
        ticket, search, whole = labels(k)
        print(f"k = {k:4d}: ticket {ticket:.3f} ms, search {search:.3f} ms, all {whole:.3f} ms")
    print("blind: " + ", ".join(f"{step} {ms:.2f} ms" for step, ms in tokens().items()))
    print(
        f"digest of {options.parameters:,} parameters: {digest(options.parameters):.2f} ms a side"
    )


if __name__ == "__main__":
    main()
