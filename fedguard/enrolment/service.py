"""The registrar as a process of its own, and the aggregator's way to it: TLS on both sides."""

from __future__ import annotations

import ssl
import struct
from pathlib import Path

from fedguard.enrolment.files import read_registrar, read_revoked
from fedguard.enrolment.reasons import MALFORMED, OTHER_AGGREGATOR, NotAdmittedError
from fedguard.enrolment.registrar import Registrar
from fedguard.enrolment.tickets import MAX_NUMBER, TICKET, Answer, Place, aggregator_id
from fedguard.enrolment.wire import TlsService, ask, server_context

_ACCESS = struct.Struct(">QH")
_SIZE = _ACCESS.size + TICKET


class RegistrarProcess:
    """Answers one aggregator, whose name it reads from the certificate that it shows.

    The epoch is the newest round that the aggregator has opened. An aggregator that names a round
    far ahead shuts out itself.

    Parameters
    ----------
    folder : Path
        The registrar's own; see `fedguard.enrolment.files`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.epoch = 0
        self.registrar: Registrar = read_registrar(folder, lambda: self.epoch)

    def answer(self, path: str, body: bytes, peer: str) -> bytes:
        """Answer ``/access``: the open place and a ticket.

        Raises
        ------
        NotAdmittedError
            With the reason.
        """
        if path == "/ready":
            return b"ready"
        if path != "/access" or len(body) != _SIZE:
            raise NotAdmittedError(MALFORMED)
        aggregator = aggregator_id(peer)
        if aggregator not in self.registrar.aggregators:
            raise NotAdmittedError(OTHER_AGGREGATOR)
        place = Place(*_ACCESS.unpack(body[: _ACCESS.size]))
        if place.server_round >= MAX_NUMBER:
            raise NotAdmittedError(MALFORMED)
        self.epoch = max(self.epoch, place.server_round)
        self.registrar.revoked = read_revoked(self.folder)
        raw = body[_ACCESS.size :]
        return self.registrar.access(aggregator, place, raw).to_bytes()

    def service(self, address: tuple[str, int], authority: Path) -> TlsService:
        """Return the service that answers under ``registrar.pem``; peers need certificates."""
        files = self.folder / "registrar.pem", self.folder / "registrar.key"
        context = server_context(*files, clients=authority)
        return TlsService(address, context, self.answer, limit=_SIZE)


class RemoteRegistrar:
    """The aggregator's way to a registrar process.

    Parameters
    ----------
    address : str
        Its ``host:port``.
    context : SSLContext
        With the aggregator's certificate; see `fedguard.enrolment.wire.client_context`.
    """

    def __init__(self, address: str, context: ssl.SSLContext) -> None:
        self.address = address
        self.context = context

    def ready(self) -> None:
        """Raise `NotAdmittedError` unless the registrar answers."""
        ask(self.address, self.context, "/ready", b"")

    def __call__(self, place: Place, raw: bytes) -> Answer:
        """Pass on a ticket; see `fedguard.enrolment.aggregator.Ask`."""
        body = _ACCESS.pack(*place) + raw
        return Answer.from_bytes(ask(self.address, self.context, "/access", body))
