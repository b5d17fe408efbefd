"""1,000 random sequences of lost, repeated, reordered and forged messages over 50 epochs."""

from __future__ import annotations

import hashlib
import random

import pytest

from fedguard.enrolment.aggregator import Aggregator
from fedguard.enrolment.local import LocalLabels
from fedguard.enrolment.reasons import REASONS, REPEATED, NotAdmittedError
from fedguard.enrolment.tickets import Answer, Place, Receipt

EPOCHS, MEMBERS, K = 50, 2, 2


class LostError(Exception):
    """The message did not arrive."""


class Network:
    """Loses a fifth of everything; keeps copies; hands them on late, twice or spoilt."""

    def __init__(self, seed: int, loss: float = 0.2) -> None:
        self.rng = random.Random(seed)
        self.loss = loss
        self.old: list[tuple[Place, bytes, bytes]] = []
        self.parties = LocalLabels(MEMBERS, K, seed)
        for party in (self.parties.registrar, *self.parties.members.values()):
            party.random = self.rng.randbytes  # fast, and other bytes in every sequence
        self.door = Aggregator(self.parties.name, self.parties.seal, self.ask)
        self.admitted: dict[Place, dict[bytes, bytes]] = {}
        self.reasons: set[str] = set()

    def lost(self) -> bool:
        return self.rng.random() < self.loss

    def ask(self, place: Place, raw: bytes) -> Answer:
        """The way to the registrar and back."""
        if self.lost():
            raise LostError
        answer = self.parties.registrar.access(self.parties.name, place, raw)
        if self.lost():
            raise LostError
        return Answer.from_bytes(answer.to_bytes())

    def deliver(self, place: Place, raw: bytes, digest: bytes) -> Receipt:
        """A message reaches the aggregator: whoever sent it, and whenever."""
        handle, receipt = self.door.receive(place, raw, digest)
        seen = self.admitted.setdefault(place, {})
        assert handle not in seen, "a second update of one handle was admitted"
        seen[handle] = digest
        return receipt

    def noise(self, now: Place) -> None:
        """Replay, reorder or forge: nothing of it may be admitted."""
        if not self.old:
            return
        place, raw, digest = self.rng.choice(self.old)
        kind = self.rng.randrange(5)
        if kind == 0:
            raw = raw[: self.rng.randrange(len(raw))]
        elif kind == 1:
            at = self.rng.randrange(len(raw))
            raw = raw[:at] + bytes([raw[at] ^ (1 << self.rng.randrange(8))]) + raw[at + 1 :]
        elif kind == 2:
            digest = self.rng.randbytes(32)
        elif kind == 3:
            raw = self.rng.randbytes(len(raw))
        before = len(self.admitted.get(now, {}))
        try:
            self.deliver(now if kind != 4 else place, raw, digest)
        except NotAdmittedError as error:
            self.reasons.add(error.reason)
        except LostError:
            pass
        else:
            # An honest ticket that had not arrived yet may arrive late within its round, once.
            assert (place, kind) == (now, 4)
            assert len(self.admitted[now]) == before + 1

    def send(self, member: int, place: Place, digest: bytes) -> bool:
        """One attempt of a member; True once it knows that its update is in."""
        raw = self.parties.ticket(member, place, digest)
        self.old.append((place, raw, digest))
        if self.lost():
            return False
        try:
            receipt = self.deliver(place, raw, digest)
        except LostError:
            return False
        except NotAdmittedError as error:
            self.reasons.add(error.reason)
            if error.reason != REPEATED:
                raise AssertionError(error.reason) from error
            return True
        if self.lost():
            return False
        assert self.parties.members[member].accepts(receipt)
        return True

    def run(self) -> int:
        """Run all epochs; return how many members were locked out of one."""
        return sum(self.epoch(number) for number in range(1, EPOCHS + 1))

    def epoch(self, number: int) -> int:
        """Run one epoch; return how many members could not get in with 30 attempts."""
        place = Place(number)
        self.parties.place = place
        self.door.open(place)
        # A member whose clock is behind by one epoch gets in all the same.
        slow = self.rng.randrange(MEMBERS)
        true = self.parties.members[slow].clock
        self.parties.members[slow].clock = lambda: max(number - 1, 0)
        out = 0
        for member in self.rng.sample(range(MEMBERS), MEMBERS):
            digest = hashlib.sha256(f"{number}/{member}".encode()).digest()
            self.noise(place)
            out += not any(self.send(member, place, digest) for _ in range(30))
        self.parties.members[slow].clock = true
        del self.old[:-40]
        return out


@pytest.mark.parametrize("part", range(4))
def test_no_lock_out_no_double_admission_no_exception(part):
    """250 sequences a part: 25,000 honest updates."""
    told: set[str] = set()
    for seed in range(250 * part, 250 * (part + 1)):
        network = Network(seed)
        assert network.run() == 0
        assert all(len(seen) == MEMBERS for seen in network.admitted.values())
        assert len(network.admitted) == EPOCHS
        told |= network.reasons
    assert told <= set(REASONS)
    assert len(told) >= 6, told


def test_the_test_would_see_a_double_admission_and_a_lock_out():
    network = Network(0)
    network.door.admissions.admit = lambda handle, digest: None
    with pytest.raises(AssertionError, match="second update"):
        network.run()
    deaf = Network(1)
    deaf.parties.registrar.revoke(0, "to lock it out")
    with pytest.raises(AssertionError, match="revoked"):
        deaf.epoch(1)
