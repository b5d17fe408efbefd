"""The messages of k-pseudonym access as bytes of one length, and the tags in them.

Every message has a fixed size: a length that depends on the member would be a pseudonym.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from typing import NamedTuple

from fedguard.enrolment.reasons import MALFORMED, NotAdmittedError

KEY, LABEL, NONCE, DIGEST, TAG, HANDLE = 32, 16, 16, 32, 32, 16
"""Bytes of a key, a label, a nonce, an update's digest, a tag and a handle."""

MAX_NUMBER = 2**62
"""Rounds and epochs are below it."""

_TICKET = struct.Struct(f">2s{HANDLE}sQH{LABEL}s{NONCE}s{DIGEST}s{TAG}s")
_VERSION = b"K1"


class Place(NamedTuple):
    """What an aggregator has open: updates are admitted once per member and place.

    Attributes
    ----------
    server_round : int
        The round.
    exchange : int
        Which exchange of messages in it; 0 but for protocols of several trips (secure aggregation).
    """

    server_round: int
    exchange: int = 0

    @property
    def told(self) -> bytes:
        """The place in 10 bytes."""
        return struct.pack(">QH", self.server_round, self.exchange)


def mac(key: bytes, purpose: bytes, *parts: bytes) -> bytes:
    """Return HMAC-SHA256 of a purpose and parts, each with its length in front.

    Two lists of parts never give one text, and a tag for one purpose fits no other: that is what
    stops a message from being reflected as an answer.
    """
    return hmac.digest(key, framed(purpose, *parts), "sha256")


def framed(*parts: bytes) -> bytes:
    """Return parts as one text, each with its length in front."""
    return b"".join([len(part).to_bytes(4, "big") + part for part in parts])


def aggregator_id(name: str) -> bytes:
    """Return an aggregator's name in 16 bytes."""
    return hashlib.sha256(b"aggregator\0" + name.encode()).digest()[:HANDLE]


def label_of(seed: bytes, epoch: int, slot: int) -> bytes:
    """Return a label of a group in an epoch: ``HMAC(seed, "label", epoch, slot)`` cut to 16 bytes.

    Every member of the group can make it, so it points at all of them alike.
    """
    return mac(seed, b"label", struct.pack(">QH", epoch, slot))[:LABEL]


def session_key(key: bytes, member_nonce: bytes, registrar_nonce: bytes) -> bytes:
    """Return the 32 bytes of HKDF-SHA256 (RFC 5869) on a member's key and both nonces."""
    inner = hmac.digest(bytes(32), key + member_nonce + registrar_nonce, "sha256")
    return hmac.digest(inner, b"fedguard enrolment session\x01", "sha256")


@dataclass(frozen=True)
class Ticket:
    """What a member sends beside its update.

    Attributes
    ----------
    aggregator : bytes
        Whom it is for; see `aggregator_id`.
    place : Place
        Which round and exchange it is for.
    label : bytes
        16 bytes that the member shares with its group.
    nonce : bytes
        16 fresh bytes N_u.
    digest : bytes
        SHA-256 of everything that is sent: arrays, number of examples, fresh public keys.
    tag : bytes
        32 bytes under the member's own key, over all of the above.
    """

    aggregator: bytes
    place: Place
    label: bytes
    nonce: bytes
    digest: bytes
    tag: bytes = bytes(TAG)

    @property
    def told(self) -> bytes:
        """What the tag covers."""
        parts = (self.label, self.nonce, self.aggregator, self.place.told, self.digest)
        return framed(b"access", *parts)

    def tag_under(self, key: bytes) -> bytes:
        """Return the tag that this ticket has under a member's key."""
        return hmac.digest(key, self.told, "sha256")

    def to_bytes(self) -> bytes:
        """Return the ticket in 124 bytes."""
        return _TICKET.pack(
            _VERSION, self.aggregator, *self.place, self.label, self.nonce, self.digest, self.tag
        )

    @classmethod
    def from_bytes(cls, raw: bytes) -> Ticket:
        """Return the ticket that bytes hold.

        Raises
        ------
        NotAdmittedError
            If they hold none.
        """
        if len(raw) != _TICKET.size or raw[:2] != _VERSION:
            raise NotAdmittedError(MALFORMED)
        _, aggregator, server_round, exchange, label, nonce, digest, tag = _TICKET.unpack(raw)
        place = Place(server_round, exchange)
        return cls(aggregator, place, label, nonce, digest, tag)


TICKET = _TICKET.size
"""Bytes of a ticket."""

_ANSWER = struct.Struct(f">{HANDLE}s{NONCE}s{TAG}s{KEY}s{TAG}s")


@dataclass(frozen=True)
class Answer:
    """What the registrar tells the aggregator: a member, under a handle that says not which.

    Attributes
    ----------
    handle : bytes
        16 bytes: the same for one member in one round, another in the next.
    nonce : bytes
        16 fresh bytes N_h.
    confirmation : bytes
        For the member: 32 bytes under its own key.
    session : bytes
        32 bytes that the member and the aggregator share from here on.
    seal : bytes
        32 bytes under the key that registrar and aggregator share.
    """

    handle: bytes
    nonce: bytes
    confirmation: bytes
    session: bytes
    seal: bytes = bytes(TAG)

    def seal_under(self, key: bytes, place: Place, ticket: bytes) -> bytes:
        """Return the seal of this answer to a ticket."""
        parts = (self.handle, self.nonce, self.confirmation, self.session)
        return mac(key, b"answer", place.told, hashlib.sha256(ticket).digest(), *parts)

    def to_bytes(self) -> bytes:
        """Return the answer in 128 bytes."""
        return _ANSWER.pack(self.handle, self.nonce, self.confirmation, self.session, self.seal)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Answer:
        """Return the answer that bytes hold.

        Raises
        ------
        NotAdmittedError
            If they hold none.
        """
        if len(raw) != _ANSWER.size:
            raise NotAdmittedError(MALFORMED)
        return cls(*_ANSWER.unpack(raw))


_RECEIPT = struct.Struct(f">{NONCE}s{TAG}s{TAG}s")
RECEIPT = _RECEIPT.size
"""Bytes of a receipt."""


@dataclass(frozen=True)
class Receipt:
    """What a member gets back for an update that is in.

    Attributes
    ----------
    nonce : bytes
        The registrar's nonce N_h.
    confirmation : bytes
        The registrar's word that it admitted this very ticket.
    proof : bytes
        The aggregator's, under the session key, that it has this very update.
    """

    nonce: bytes
    confirmation: bytes
    proof: bytes

    def to_bytes(self) -> bytes:
        """Return the receipt in 80 bytes."""
        return _RECEIPT.pack(self.nonce, self.confirmation, self.proof)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Receipt:
        """Return the receipt that bytes hold.

        Raises
        ------
        NotAdmittedError
            If they hold none.
        """
        if len(raw) != _RECEIPT.size:
            raise NotAdmittedError(MALFORMED)
        return cls(*_RECEIPT.unpack(raw))


def confirmation_of(key: bytes, ticket: Ticket, registrar_nonce: bytes) -> bytes:
    """Return ``HMAC(K_u, "confirm", N_u, N_h, ...)``, which the registrar alone can answer with."""
    return mac(key, b"confirm", ticket.nonce, registrar_nonce, ticket.place.told, ticket.digest)


def proof_of(session: bytes, place: Place, digest: bytes) -> bytes:
    """Return what shows a member that the aggregator has its update."""
    return mac(session, b"receipt", place.told, digest)
