"""Roster: a list of enrolled clients, each with a key of its own; one update each per round."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from fedguard.enrolment.base import Enrolment

_ROUND = 10
_TAG = 32
"""Bytes of a ticket that name its round and exchange, and of its tag."""


class Roster(Enrolment):
    """Admit a reply with its client's ticket, ``round | digest | HMAC-SHA256(key, all three)``.

    The tag covers round and exchange (10 bytes), client and digest (32 bytes) of the update.

    Not anonymous: a client is known by its handle, and the aggregator knows its key. What it
    stops is a reply in somebody else's name, one of another round, one whose update was changed on
    the way, and a second one. Not a paper's method: the plain practice that others improve on.
    """

    def __init__(self) -> None:
        self._keys: dict[int, bytes] = {}
        self._admitted: tuple[tuple[int, int], set[int]] = ((0, 0), set())

    def key_of(self, client: int) -> bytes:
        """Return a client's key, drawn when it enrols."""
        return self._keys.setdefault(client, secrets.token_bytes(32))

    def ticket(self, client: int, server_round: int, digest: bytes, exchange: int = 0) -> bytes:
        """Return place, digest and the client's tag of both; see `Enrolment.ticket`."""
        told = _place(server_round, exchange) + digest
        return told + self._tag(client, told)

    def _tag(self, client: int, told: bytes) -> bytes:
        text = f"{client}|".encode() + told
        return hmac.new(self.key_of(client), text, hashlib.sha256).digest()

    def refusal(
        self, client: int, server_round: int, digest: bytes, ticket: bytes, exchange: int = 0
    ) -> str | None:
        """Return why a reply is not admitted; see `Enrolment.refusal`."""
        if client not in self._keys:
            return "not enrolled"
        told, tag = ticket[:-_TAG], ticket[-_TAG:]
        if not hmac.compare_digest(self._tag(client, told), tag):
            return "forged: the ticket is not this client's"
        if told[:_ROUND] != _place(server_round, exchange):
            return "replayed: the ticket is of another round"
        if told[_ROUND:] != digest:
            return "changed on the way: the ticket is of another update"
        current, seen = self._admitted
        if current != (server_round, exchange):
            seen = set()
            self._admitted = ((server_round, exchange), seen)
        if client in seen:
            return "a second update in one round"
        seen.add(client)
        return None


def _place(server_round: int, exchange: int) -> bytes:
    return server_round.to_bytes(8, "big") + exchange.to_bytes(2, "big")
