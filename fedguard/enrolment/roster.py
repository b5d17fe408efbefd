"""Roster: a list of enrolled clients, each with a key of its own; one update each per round."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from fedguard.enrolment.base import Enrolment


class Roster(Enrolment):
    """Admit a reply that carries its client's tag, ``HMAC-SHA256(key, round | client | digest)``.

    Not anonymous: a client is known by its handle, and the aggregator knows its key. What it
    stops is a reply in somebody else's name, one of another round, one whose update was changed on
    the way, and a second one. Not a paper's method: the plain practice that others improve on.
    """

    def __init__(self) -> None:
        self._keys: dict[int, bytes] = {}
        self._admitted: tuple[int, set[int]] = (0, set())

    def enrol(self, client: int) -> bytes:
        """Return a client's key, drawn when it enrols."""
        return self._keys.setdefault(client, secrets.token_bytes(32))

    def ticket(self, client: int, server_round: int, digest: bytes) -> bytes:
        """Return the client's tag of a round and an update; see `Enrolment.ticket`."""
        text = f"{server_round}|{client}|".encode() + digest
        return hmac.new(self.enrol(client), text, hashlib.sha256).digest()

    def refusal(self, client: int, server_round: int, digest: bytes, ticket: bytes) -> str | None:
        """Return why a reply is not admitted; see `Enrolment.refusal`."""
        if client not in self._keys:
            return "not enrolled"
        if not hmac.compare_digest(self.ticket(client, server_round, digest), ticket):
            return "forged, changed or of another round"
        current, seen = self._admitted
        if current != server_round:
            seen = set()
            self._admitted = (server_round, seen)
        if client in seen:
            return "a second update in one round"
        seen.add(client)
        return None
