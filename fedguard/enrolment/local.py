"""Registrar, aggregator and all members in one process, for simulations: cost and behaviour.

In one process nothing is secret from anyone, and keys follow from the run's seed.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable

from fedguard.enrolment.aggregator import Aggregator
from fedguard.enrolment.groups import form_groups
from fedguard.enrolment.member import Member
from fedguard.enrolment.reasons import CLOSED_ROUND, MALFORMED, NotAdmittedError
from fedguard.enrolment.registrar import Registrar
from fedguard.enrolment.tickets import KEY, Place, aggregator_id
from fedguard.enrolment.tokens import TokenAggregator, TokenHolder, TokenIssuer
from fedguard.randomness import SERVER, stream_seed

SLOTS = 4
"""Labels of a group in an epoch."""


class KeyedBytes:
    """Bytes that follow from a seed, a round, a client and a purpose; reproducible, not secret.

    Parameters
    ----------
    seed, client, purpose
        See `fedguard.randomness.stream_seed`.
    clock : callable
        Returns the round; each round's bytes begin anew, so that a resumed run draws the same.
    """

    def __init__(
        self, seed: int, client: int, purpose: str, clock: Callable[[], int] = lambda: 0
    ) -> None:
        self.seed, self.client, self.purpose = seed, client, purpose
        self.clock = clock
        self._place = (-1, 0)

    def __call__(self, count: int) -> bytes:
        """Return the next bytes of the round."""
        now = self.clock()
        drawn = self._place[1] + 1 if self._place[0] == now else 0
        self._place = (now, drawn)
        key = stream_seed(self.seed, now, self.client, f"enrolment {self.purpose} {drawn}")
        return hashlib.shake_256(key.to_bytes(8, "big")).digest(count)


class LocalParties(ABC):
    """Everybody who takes part, in one process.

    Parameters
    ----------
    clients : int
        Members 0 to K - 1.
    k : int
        Size of a group.
    seed : int
        What keys follow from.
    epoch_rounds : int
        Rounds in an epoch.
    lasting : bool
        See `Registrar`.
    """

    def __init__(
        self, clients: int, k: int, seed: int, *, epoch_rounds: int = 1, lasting: bool = False
    ) -> None:
        random = KeyedBytes(seed, SERVER, "keys")
        self.place = Place(0)
        self.seal, self.name = random(KEY), aggregator_id("fedguard")

        def epoch() -> int:
            return self.place.server_round // epoch_rounds

        def draws(client: int, purpose: str) -> KeyedBytes:
            return KeyedBytes(seed, client, purpose, lambda: self.place.server_round)

        self.draws = draws
        self.registrar = Registrar(
            form_groups(range(clients), k, random),
            {member: random(KEY) for member in range(clients)},
            slots=SLOTS,
            secret=random(KEY),
            clock=epoch,
            random=draws(SERVER, "registrar"),
            aggregators={self.name: self.seal},
            lasting=lasting,
        )
        self.members = {
            member: Member(self.registrar.credential(member), epoch, draws(member, "member"))
            for member in range(clients)
        }

    def ticket(self, member: int, place: Place, digest: bytes) -> bytes:
        """Return a member's ticket; an empty one where it can have none."""
        self.place = max(self.place, place)
        try:
            return self._ticket(member, place, digest)
        except NotAdmittedError:
            return b""

    def receive(self, place: Place, raw: bytes, digest: bytes) -> bytes:
        """Let the aggregator admit an update, and return its handle; see `Aggregator.receive`.

        Raises
        ------
        NotAdmittedError
            With the reason.
        """
        if place < self.place:
            raise NotAdmittedError(CLOSED_ROUND)
        self.place = place
        if not raw:
            raise NotAdmittedError(MALFORMED)
        return self._receive(place, raw, digest)

    @abstractmethod
    def _ticket(self, member: int, place: Place, digest: bytes) -> bytes: ...

    @abstractmethod
    def _receive(self, place: Place, raw: bytes, digest: bytes) -> bytes: ...


class LocalLabels(LocalParties):
    """Access by shared labels; see `LocalParties`."""

    def __init__(self, clients: int, k: int, seed: int, **more: object) -> None:
        super().__init__(clients, k, seed, **more)  # type: ignore[arg-type]
        name = self.name
        self.aggregator = Aggregator(
            name, self.seal, lambda place, raw: self.registrar.access(name, place, raw)
        )

    def _ticket(self, member: int, place: Place, digest: bytes) -> bytes:
        return self.members[member].ticket(self.name, place, digest)

    def _receive(self, place: Place, raw: bytes, digest: bytes) -> bytes:
        self.aggregator.open(place)
        handle, _ = self.aggregator.receive(place, raw, digest)
        return handle


class LocalTokens(LocalParties):
    """Access by blindly signed tokens; see `LocalParties`."""

    def __init__(self, clients: int, k: int, seed: int, **more: object) -> None:
        super().__init__(clients, k, seed, **more)  # type: ignore[arg-type]
        self.issuer = TokenIssuer(self.registrar, self.draws(SERVER, "issuer"))
        self.holders = {
            member: TokenHolder(each, self.draws(member, "token"))
            for member, each in self.members.items()
        }
        self.aggregator = TokenAggregator(self.name, self.issuer.open)

    def _ticket(self, member: int, place: Place, digest: bytes) -> bytes:
        holder = self.holders[member]
        if not holder.has(place.server_round):
            key = self.issuer.open(place.server_round)
            raw, request = holder.request(place.server_round, key)
            holder.take(key, self.issuer.issue(place.server_round, raw, request))
        return holder.ticket(self.name, place, digest)

    def _receive(self, place: Place, raw: bytes, digest: bytes) -> bytes:
        self.aggregator.open(place)
        return self.aggregator.receive(place, raw, digest)
