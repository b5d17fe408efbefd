"""One-time tokens, signed blindly: not even a registrar that colludes can tell whose one is.

A member makes an Ed25519 key for one round, and the registrar signs the public key without seeing
it. The token is that key and the signature; its owner signs what it sends with the private key.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedguard.enrolment.aggregator import Admissions
from fedguard.enrolment.blind import (
    BITS,
    PREFIX,
    Blinded,
    blind,
    finish,
    make_key,
    sign_blinded,
    verify,
)
from fedguard.enrolment.groups import Bytes
from fedguard.enrolment.member import Member
from fedguard.enrolment.reasons import (
    CHANGED,
    CLOSED_ROUND,
    FORGED_SIGNATURE,
    FORGED_TOKEN,
    ISSUED,
    MALFORMED,
    OTHER_AGGREGATOR,
    OTHER_ROUND,
    NotAdmittedError,
)
from fedguard.enrolment.registrar import Registrar
from fedguard.enrolment.tickets import DIGEST, HANDLE, KEY, MAX_NUMBER, Place, aggregator_id

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

ISSUER = aggregator_id("the registrar's own tokens")
"""Whom a ticket is for that asks for a token."""

_SIGNATURE = 64
_TICKET = struct.Struct(f">2s{HANDLE}sQH{KEY}s{PREFIX}s{BITS // 8}s{DIGEST}s{_SIGNATURE}s")
_VERSION = b"B1"
BLIND_TICKET = _TICKET.size
"""Bytes of a ticket with a token."""


class TokenIssuer:
    """The registrar's side: at most one token per member and round, never seeing it.

    Each round has a key of its own, so that a token is good for one round; all members are given
    the same key, or the registrar could tell them apart by it.

    Parameters
    ----------
    registrar : Registrar
        Knows who asks.
    random : callable
        Secret bytes.
    make : callable
        Makes an RSA key.
    """

    def __init__(
        self, registrar: Registrar, random: Bytes, make: Callable[[], RSAPrivateKey] = make_key
    ) -> None:
        self.registrar = registrar
        self.random = random
        self.make = make
        self._keys: dict[int, RSAPrivateKey] = {}
        self._issued: dict[int, dict[int, tuple[bytes, bytes]]] = {}

    def open(self, server_round: int) -> RSAPublicKey:
        """Return a round's public key, for an aggregator; all but the newest two are forgotten.

        Raises
        ------
        NotAdmittedError
            If the round is closed.
        """
        if server_round not in self._keys:
            if server_round <= max(self._keys, default=0) or server_round >= MAX_NUMBER:
                raise NotAdmittedError(CLOSED_ROUND)
            self._keys[server_round] = self.make()
            for past in [each for each in self._keys if each < server_round - 1]:
                del self._keys[past]
                self._issued.pop(past, None)
        return self._keys[server_round].public_key()

    def issue(self, server_round: int, raw: bytes, request: bytes) -> bytes:
        """Sign a blinded token for a member.

        Parameters
        ----------
        server_round : int
            The round that it is for.
        raw : bytes
            A ticket for `ISSUER` whose digest is the request's.
        request : bytes
            The blinded token.

        Raises
        ------
        NotAdmittedError
            If the ticket is not good, or its member has another token for the round.
        """
        if server_round not in self._keys:
            raise NotAdmittedError(CLOSED_ROUND)
        member, ticket = self.registrar.identify(ISSUER, Place(server_round), raw)
        if not hmac.compare_digest(hashlib.sha256(request).digest(), ticket.digest):
            raise NotAdmittedError(CHANGED)
        issued = self._issued.setdefault(server_round, {})
        if member in issued:
            before, answer = issued[member]
            if before != request:
                raise NotAdmittedError(ISSUED)
            return answer  # it got lost on the way
        answer = sign_blinded(self._keys[server_round], request, self.random)
        issued[member] = (request, answer)
        return answer


@dataclass(frozen=True)
class Token:
    """A signed one-time key with its private half."""

    server_round: int
    secret: Ed25519PrivateKey
    message: bytes
    signature: bytes


class TokenHolder:
    """A member's side: gets a token for a round, then signs its tickets with it.

    Parameters
    ----------
    member : Member
        Shows the registrar that it may have one.
    random : callable
        Secret bytes.

    Attributes
    ----------
    token : Token or None
        The last one that it got.
    """

    def __init__(self, member: Member, random: Bytes) -> None:
        self.member = member
        self.random = random
        self._pending: tuple[int, Ed25519PrivateKey, Blinded] | None = None
        self.token: Token | None = None

    def request(self, server_round: int, key: RSAPublicKey) -> tuple[bytes, bytes]:
        """Return a fresh ticket and the blinded token; asking again asks for the same one."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        if self._pending is None or self._pending[0] != server_round:
            secret = Ed25519PrivateKey.from_private_bytes(self.random(KEY))
            message = secret.public_key().public_bytes_raw()
            self._pending = (server_round, secret, blind(key, message, self.random))
        wanted = self._pending[2].request
        digest = hashlib.sha256(wanted).digest()
        return self.member.ticket(ISSUER, Place(server_round), digest), wanted

    def take(self, key: RSAPublicKey, answer: bytes) -> None:
        """Keep the token that the registrar's answer makes.

        Raises
        ------
        NotAdmittedError
            If it is not signed under the key that everybody was told.
        """
        if self._pending is None:
            raise NotAdmittedError(MALFORMED)
        server_round, secret, blinded = self._pending
        signature = finish(key, blinded, answer)
        self.token = Token(server_round, secret, blinded.message, signature)

    def has(self, server_round: int) -> bool:
        """Return whether there is a token for a round."""
        return self.token is not None and self.token.server_round == server_round

    def ticket(self, aggregator: bytes, place: Place, digest: bytes) -> bytes:
        """Return a ticket for an update; see `Member.ticket`.

        Raises
        ------
        NotAdmittedError
            If there is no token for the round.
        """
        token = self.token
        if token is None or token.server_round != place.server_round:
            raise NotAdmittedError(CLOSED_ROUND)
        public, prefix = token.message[PREFIX:], token.message[:PREFIX]
        proof = token.secret.sign(_statement(aggregator, place, digest))
        return _TICKET.pack(
            _VERSION, aggregator, *place, public, prefix, token.signature, digest, proof
        )


class TokenAggregator:
    """The aggregator's side: needs the registrar's public key of the round and nothing else of it.

    Parameters
    ----------
    name : bytes
        Its id; see `fedguard.enrolment.tickets.aggregator_id`.
    key : callable
        Returns a round's public key.
    """

    def __init__(self, name: bytes, key: Callable[[int], RSAPublicKey]) -> None:
        self.name = name
        self.key = key
        self.admissions = Admissions()

    def open(self, place: Place) -> None:
        """Open a round or exchange; see `Admissions.open`."""
        self.admissions.open(place)

    def receive(self, place: Place, raw: bytes, digest: bytes) -> bytes:
        """Admit an update and return its handle, which the one-time key makes.

        Raises
        ------
        NotAdmittedError
            With the reason.
        """
        if len(raw) != _TICKET.size or raw[:2] != _VERSION:
            raise NotAdmittedError(MALFORMED)
        _, name, number, exchange, public, prefix, signature, told, proof = _TICKET.unpack(raw)
        if not hmac.compare_digest(told, digest):
            raise NotAdmittedError(CHANGED)
        if place != self.admissions.place:
            raise NotAdmittedError(CLOSED_ROUND)
        if not _signed(public, proof, _statement(name, Place(number, exchange), told)):
            raise NotAdmittedError(FORGED_SIGNATURE)
        if name != self.name:
            raise NotAdmittedError(OTHER_AGGREGATOR)
        if Place(number, exchange) != place:
            raise NotAdmittedError(OTHER_ROUND)
        if not verify(self.key(place.server_round), prefix + public, signature):
            raise NotAdmittedError(FORGED_TOKEN)
        handle = hashlib.sha256(b"handle" + public).digest()[:HANDLE]
        self.admissions.admit(handle, digest)
        return handle


def _statement(aggregator: bytes, place: Place, digest: bytes) -> bytes:
    return b"fedguard update" + aggregator + place.told + digest


def _signed(public: bytes, proof: bytes, statement: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(proof, statement)
    except (InvalidSignature, ValueError):
        return False
    return True
