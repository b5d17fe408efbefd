"""`Member`: a client's side of k-pseudonym access; a state machine without clock or chance."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import replace

from fedguard.enrolment.groups import Bytes, Credential
from fedguard.enrolment.tickets import (
    NONCE,
    Place,
    Receipt,
    Ticket,
    confirmation_of,
    label_of,
    proof_of,
    session_key,
)


class Member:
    """One enrolled client.

    A ticket is made anew for every attempt, with a fresh nonce: what got lost is simply sent
    again. Nothing that is lost puts a member and the registrar out of step, since labels come from
    the epoch, which both know from their clocks, and not from a counter.

    Parameters
    ----------
    credential : Credential
        What it got when it enrolled.
    clock : callable
        Returns the epoch; may lag one behind the registrar's.
    random : callable
        Secret bytes.
    """

    def __init__(self, credential: Credential, clock: Callable[[], int], random: Bytes) -> None:
        self.credential = credential
        self.clock = clock
        self.random = random
        self._sent: Ticket | None = None

    def ticket(self, aggregator: bytes, place: Place, digest: bytes) -> bytes:
        """Return a fresh ticket for an update.

        Parameters
        ----------
        aggregator : bytes
            Whom it is for; see `fedguard.enrolment.tickets.aggregator_id`.
        place : Place
            Round and exchange that the aggregator has open.
        digest : bytes
            SHA-256 of everything that is sent.
        """
        slot = int.from_bytes(self.random(8), "big") % self.credential.slots
        label = label_of(self.credential.seed, self.clock(), slot)
        blank = Ticket(aggregator, place, label, self.random(NONCE), digest)
        self._sent = replace(blank, tag=blank.tag_under(self.credential.key))
        return self._sent.to_bytes()

    def accepts(self, receipt: Receipt) -> bool:
        """Return whether a receipt says that the last ticket's update is in.

        It holds the registrar's confirmation, which needs the member's own key, and the
        aggregator's proof, which needs the session key that the registrar gave it.
        """
        sent = self._sent
        if sent is None:
            return False
        key = self.credential.key
        session = session_key(key, sent.nonce, receipt.nonce)
        confirmed = confirmation_of(key, sent, receipt.nonce)
        proven = proof_of(session, sent.place, sent.digest)
        # Both are compared whatever the first one says.
        told = hmac.compare_digest(confirmed, receipt.confirmation)
        shown = hmac.compare_digest(proven, receipt.proof)
        return told and shown
