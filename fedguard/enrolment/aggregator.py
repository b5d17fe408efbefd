"""`Aggregator`: admits one update per handle and place, and knows nobody's name or key."""

from __future__ import annotations

import hmac
from collections.abc import Callable

from fedguard.enrolment.reasons import (
    CHANGED,
    CLOSED_ROUND,
    FORGED_HANDLE,
    REPEATED,
    SECOND,
    NotAdmittedError,
)
from fedguard.enrolment.tickets import Answer, Place, Receipt, Ticket, proof_of

Ask = Callable[[Place, bytes], Answer]
"""Passes a ticket to the registrar; raises `NotAdmittedError` with its reason."""


class Admissions:
    """Which update of which handle is in, in the place that is open.

    Opening the next place forgets the last one: there is nothing to link it with.
    """

    def __init__(self) -> None:
        self.place = Place(0)
        self._digests: dict[bytes, bytes] = {}

    def open(self, place: Place) -> None:
        """Open a round or exchange; those before are closed for ever.

        Raises
        ------
        ValueError
            If it is not a later one.
        """
        if place < self.place:
            raise ValueError(f"{place} comes before {self.place}")
        if place != self.place:
            self.place, self._digests = place, {}

    def admit(self, handle: bytes, digest: bytes) -> None:
        """Note an update; the first one of a handle counts.

        Raises
        ------
        NotAdmittedError
            If an update of this handle is in: this one, or another.
        """
        if handle in self._digests:
            raise NotAdmittedError(REPEATED if self._digests[handle] == digest else SECOND)
        self._digests[handle] = digest

    @property
    def handles(self) -> tuple[bytes, ...]:
        """Handles whose updates are in, in the order of the handles."""
        return tuple(sorted(self._digests))


class Aggregator:
    """The aggregator's side of k-pseudonym access.

    Parameters
    ----------
    name : bytes
        Its id; see `fedguard.enrolment.tickets.aggregator_id`.
    key : bytes
        32 bytes shared with the registrar, under which its answers are sealed.
    ask : callable
        Passes a ticket to the registrar.
    """

    def __init__(self, name: bytes, key: bytes, ask: Ask) -> None:
        self.name = name
        self.key = key
        self.ask = ask
        self.admissions = Admissions()

    def open(self, place: Place) -> None:
        """Open a round or exchange; see `Admissions.open`."""
        self.admissions.open(place)

    def receive(self, place: Place, raw: bytes, digest: bytes) -> tuple[bytes, Receipt]:
        """Admit an update, or say why not.

        1. the ticket must be of this update, which costs nobody anything to find out;
        2. the registrar must know its sender, and its answer must be the registrar's;
        3. its handle must not have an update in already.

        Parameters
        ----------
        place : Place
            What the sender takes for open.
        raw : bytes
            The ticket.
        digest : bytes
            SHA-256 of what arrived.

        Returns
        -------
        tuple of bytes and Receipt
            The sender's handle, and what to tell it.

        Raises
        ------
        NotAdmittedError
            With the reason.
        """
        ticket = Ticket.from_bytes(raw)
        if not hmac.compare_digest(ticket.digest, digest):
            raise NotAdmittedError(CHANGED)
        if place != self.admissions.place:
            raise NotAdmittedError(CLOSED_ROUND)
        answer = self.ask(place, raw)
        if not hmac.compare_digest(answer.seal_under(self.key, place, raw), answer.seal):
            raise NotAdmittedError(FORGED_HANDLE)
        self.admissions.admit(answer.handle, digest)
        proof = proof_of(answer.session, place, digest)
        return answer.handle, Receipt(answer.nonce, answer.confirmation, proof)
