"""`Registrar`: knows who is who, and tells an aggregator no more than that somebody is a member.

It never sees an update: a ticket holds its digest alone.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fedguard.enrolment.groups import Bytes, Credential, Group, LabelTable
from fedguard.enrolment.reasons import (
    CLOSED_ROUND,
    FORGED,
    OTHER_AGGREGATOR,
    OTHER_ROUND,
    REPLAYED,
    REVOKED,
    TOO_MANY,
    UNKNOWN_LABEL,
    WRONG_EPOCH,
    NotAdmittedError,
)
from fedguard.enrolment.tickets import (
    HANDLE,
    MAX_NUMBER,
    NONCE,
    Answer,
    Place,
    Ticket,
    confirmation_of,
    mac,
    session_key,
)

ATTEMPTS = 64
"""Tickets of one member that are admitted in one round: what is lost is sent again, but not for
ever, so that no member can fill the registrar's memory."""


@dataclass
class _Open:
    """What the registrar keeps of one round of one aggregator."""

    nonces: set[bytes] = field(default_factory=set)
    used: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """Whom a search found, and how; for the registrar's own eyes.

    Attributes
    ----------
    member : int or None
        Whose ticket it is.
    position : int
        At which key of the group, from 1; the number of trials of a search that stops there.
    tried : int
        Keys that were tried: always the whole group's.
    """

    member: int | None
    position: int
    tried: int


class Registrar:
    """Members' keys, the labels of their groups, and the one party that can say who somebody is.

    An access, in this order, each step with a reason of its own:

    1. find the group of the ticket's label in this epoch or the one before;
    2. try *every* key of the group, each compared in constant time: a search that stopped at the
       right one would tell by its duration at which place it stands;
    3. refuse revoked members, tickets for another aggregator, of another round, or used before;
    4. answer with the handle ``HMAC(registrar's key, member, round)`` cut to 16 bytes, and a
       confirmation for the member.

    A round that an aggregator has left behind by more than one is closed for it.

    Parameters
    ----------
    groups : sequence of Group
        Who shares labels with whom.
    keys : mapping of int to bytes
        Member to its 32-byte key.
    slots : int
        Labels of a group in an epoch.
    secret : bytes
        32 bytes that handles are made with.
    clock : callable
        Returns the epoch.
    random : callable
        Secret bytes.
    aggregators : mapping of bytes to bytes
        Aggregator's id to the 32-byte key that seals answers to it.
    lasting : bool
        Keep a member's handle from round to round, for defences that judge by earlier rounds.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        keys: Mapping[int, bytes],
        *,
        slots: int,
        secret: bytes,
        clock: Callable[[], int],
        random: Bytes,
        aggregators: Mapping[bytes, bytes],
        lasting: bool = False,
    ) -> None:
        self.groups = tuple(groups)
        self.clock = clock
        self.random = random
        self.aggregators = dict(aggregators)
        self.lasting = lasting
        self.revoked: set[int] = set()
        self.log: list[dict[str, object]] = []
        self._keys = dict(keys)
        self._secret = secret
        self.labels = LabelTable(groups, slots)
        self._open: dict[bytes, dict[int, _Open]] = {}

    def credential(self, member: int) -> Credential:
        """Return what a member gets when it enrols."""
        group = next(group for group in self.groups if member in group.members)
        return Credential(self._keys[member], group.seed, self.labels.slots)

    @property
    def smallest_set(self) -> int:
        """Members, revoked ones aside, of the smallest group: the k that holds at worst."""
        return min(len(set(group.members) - self.revoked) for group in self.groups)

    def access(self, aggregator: bytes, place: Place, raw: bytes) -> Answer:
        """Answer an aggregator that passes on a ticket.

        Parameters
        ----------
        aggregator : bytes
            Who asks; the channel must have made sure of it.
        place : Place
            What it has open.
        raw : bytes
            The ticket.

        Raises
        ------
        NotAdmittedError
            With the reason, one of `fedguard.enrolment.reasons.REASONS`.
        """
        if aggregator not in self.aggregators:
            raise NotAdmittedError(OTHER_AGGREGATOR)
        member, ticket = self.identify(aggregator, place, raw)
        return self._answer(aggregator, member, ticket, raw)

    def identify(self, receiver: bytes, place: Place, raw: bytes) -> tuple[int, Ticket]:
        """Return whose fresh ticket for a receiver and place it is; for the registrar's own eyes.

        Raises
        ------
        NotAdmittedError
            If it is nobody's, or not good for this.
        """
        ticket = Ticket.from_bytes(raw)
        member = self.search(ticket).member
        if member is None:
            raise NotAdmittedError(FORGED)
        if member in self.revoked:
            raise NotAdmittedError(REVOKED)
        if ticket.aggregator != receiver:
            raise NotAdmittedError(OTHER_AGGREGATOR)
        if ticket.place != place:
            raise NotAdmittedError(OTHER_ROUND)
        self._use(receiver, place.server_round, member, ticket.nonce)
        return member, ticket

    def search(self, ticket: Ticket) -> Found:
        """Return whose ticket it is.

        Raises
        ------
        NotAdmittedError
            If its label is no group's, now or in the epoch before.
        """
        epoch = self.clock()
        index = self.labels.find(ticket.label, epoch)
        if index is None:
            known = self.labels.was_ever(ticket.label, epoch)
            raise NotAdmittedError(WRONG_EPOCH if known else UNKNOWN_LABEL)
        members = self.groups[index].members
        told = ticket.told
        found, position = None, 0
        for number, member in enumerate(members, 1):
            tag = hmac.digest(self._keys[member], told, "sha256")
            if hmac.compare_digest(tag, ticket.tag):
                found, position = member, number
        return Found(found, position, len(members))

    def _use(self, aggregator: bytes, server_round: int, member: int, nonce: bytes) -> None:
        """Note that a ticket is used, unless it was or its round is closed."""
        rounds = self._open.setdefault(aggregator, {})
        newest = max(rounds, default=0)
        if server_round < newest - 1 or server_round >= MAX_NUMBER:
            raise NotAdmittedError(CLOSED_ROUND)
        opened = rounds.setdefault(server_round, _Open())
        for past in [each for each in rounds if each < max(newest, server_round) - 1]:
            del rounds[past]
        if nonce in opened.nonces:
            raise NotAdmittedError(REPLAYED)
        if opened.used.get(member, 0) >= ATTEMPTS:
            raise NotAdmittedError(TOO_MANY)
        opened.nonces.add(nonce)
        opened.used[member] = opened.used.get(member, 0) + 1

    def _answer(self, aggregator: bytes, member: int, ticket: Ticket, raw: bytes) -> Answer:
        key, nonce = self._keys[member], self.random(NONCE)
        answer = Answer(
            self.handle(aggregator, member, ticket.place.server_round),
            nonce,
            confirmation_of(key, ticket, nonce),
            session_key(key, ticket.nonce, nonce),
        )
        return replace(
            answer, seal=answer.seal_under(self.aggregators[aggregator], ticket.place, raw)
        )

    def handle(self, aggregator: bytes, member: int, server_round: int) -> bytes:
        """Return a member's handle in a round; for the registrar's own eyes."""
        told = b"lasting" if self.lasting else server_round.to_bytes(8, "big")
        return mac(self._secret, b"handle", aggregator, member.to_bytes(8, "big"), told)[:HANDLE]

    def revoke(self, member: int, why: str) -> None:
        """Refuse a member from now on, and log it."""
        self.revoked.add(member)
        self.log.append({"what": "revoked", "member": member, "why": why})

    def trace(self, aggregator: bytes, server_round: int, handle: bytes, why: str) -> int | None:
        """Return who had a handle in a round, None where nobody had; logged either way."""
        found = None
        for member in self._keys:
            if hmac.compare_digest(self.handle(aggregator, member, server_round), handle):
                found = member
        self.log.append(
            {
                "what": "traced",
                "member": found,
                "round": server_round,
                "handle": handle.hex(),
                "why": why,
            }
        )
        return found
