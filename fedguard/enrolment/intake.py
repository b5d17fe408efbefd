"""The aggregator's door in a deployment: updates come without their senders' names.

A SuperNode is known to Flower by its key and its node id, so an update in its reply would be signed
with a name. Clients therefore answer Flower with an empty acknowledgement and hand the update in
over a TLS connection of its own, on which they show no certificate, with a ticket.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flwr.app import ConfigRecord, Error, Message, MessageType, RecordDict
from flwr.common.serde import recorddict_from_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from flwr.serverapp import Grid

from fedguard.enrolment.aggregator import Aggregator
from fedguard.enrolment.base import Exchanges
from fedguard.enrolment.digests import content_digest
from fedguard.enrolment.mod import INSTRUCTION
from fedguard.enrolment.reasons import CLOSED_ROUND, MALFORMED, NotAdmittedError
from fedguard.enrolment.tickets import TICKET, Place
from fedguard.enrolment.wire import TlsService, server_context
from fedguard.grids.base import WrappedGrid

SPREAD = 1.0
"""Seconds within which clients hand in and acknowledge, each at a moment of its own choice."""

_REFUSED = 3
_OVERHEAD = 1 << 20
"""Bytes that an update may be larger than the model that was sent."""


@dataclass
class _Box:
    """What one round has brought."""

    updates: dict[bytes, RecordDict] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)


class Intake:
    """Takes updates in, each with a ticket, and checks them.

    Parameters
    ----------
    aggregator : Aggregator
        Checks tickets.
    """

    def __init__(self, aggregator: Aggregator) -> None:
        self.aggregator = aggregator
        self._lock = threading.Lock()
        self._box: _Box | None = None
        self.place = Place(0)

    def open(self, place: Place) -> None:
        """Begin to take updates of a round in."""
        with self._lock:
            self.aggregator.open(place)
            self.place, self._box = place, _Box()

    def close(self) -> _Box:
        """Take no more, and return what came."""
        with self._lock:
            box, self._box = self._box, None
        return box or _Box()

    def answer(self, path: str, body: bytes, peer: str) -> bytes:
        """Answer ``/update``: a ticket of 124 bytes and the update's records.

        Raises
        ------
        NotAdmittedError
            With the reason, which the round's records tell as well.
        """
        if path != "/update":
            raise NotAdmittedError(MALFORMED)
        with self._lock:
            box = self._box
            if box is None:
                raise NotAdmittedError(CLOSED_ROUND)
            try:
                content = _content_of(body[TICKET:])
                digest = content_digest(content)
                handle, receipt = self.aggregator.receive(self.place, body[:TICKET], digest)
            except NotAdmittedError as error:
                box.refused.append(error.reason)
                raise
            box.updates[handle] = content
        return receipt.to_bytes()


def _content_of(raw: bytes) -> RecordDict:
    """Return the records of an update, as Flower's own messages carry them; no pickle in it."""
    try:
        return recorddict_from_proto(ProtoRecordDict.FromString(raw))
    except Exception as error:  # bytes from outside can fail in any way
        raise NotAdmittedError(MALFORMED) from error


class IntakeGrid(WrappedGrid):
    """A grid around Flower's whose training replies come in at the door.

    A training call:

    1. opens the round at the door, and tells clients where it is;
    2. waits until all have acknowledged, or for as long as the round lasts;
    3. closes the round and hands the updates on, in the order of their handles, as answers of
       places 0, 1, 2, ... that are nobody's.

    An update that comes in a reply, under its sender's name, is not admitted.

    Parameters
    ----------
    inner : Grid
        Flower's.
    aggregator : Aggregator
        Checks tickets.
    address : str
        ``host:port`` of the door, as clients reach it.
    certificate : tuple of Path
        The door's certificate and key.
    listen : tuple of str and int
        Address and port that it listens on.
    """

    def __init__(
        self,
        inner: Grid,
        aggregator: Aggregator,
        address: str,
        certificate: tuple[Path, Path],
        listen: tuple[str, int],
    ) -> None:
        super().__init__(inner)
        self.intake = Intake(aggregator)
        self.address = address
        self.certificate = certificate
        self.listen = listen
        self.handles: dict[tuple[int, int], str] = {}
        self._exchanges = Exchanges()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Exchange messages; updates of a training call come in at the door."""
        instructions = list(messages)
        training = [m for m in instructions if m.metadata.message_type == MessageType.TRAIN]
        if not training:
            return self.inner.send_and_receive(instructions, timeout=timeout)
        place = Place(*self._exchanges.next(training[0]))
        size = sum(
            len(a.data) for r in training[0].content.array_records.values() for a in r.values()
        )
        told = self._told(place)
        for message in training:
            message.content[INSTRUCTION] = told
        service = TlsService(
            self.listen,
            server_context(*self.certificate),
            self.intake.answer,
            limit=2 * size + _OVERHEAD,
        )
        self.intake.open(place)
        with service.running():
            replies = list(self.inner.send_and_receive(instructions, timeout=timeout))
        return self._seated(training, replies, self.intake.close(), place)

    def _told(self, place: Place) -> ConfigRecord:
        name = self.intake.aggregator.name
        return ConfigRecord(
            {
                "address": self.address,
                "aggregator": name,
                "round": place.server_round,
                "exchange": place.exchange,
                "spread": SPREAD,
            }
        )

    def _seated(
        self, training: Sequence[Message], replies: Sequence[Message], box: _Box, place: Place
    ) -> list[Message]:
        """Return one reply for each that was asked: an update, a refusal, or nothing came."""
        reasons = list(box.refused)
        for reply in replies:
            if reply.has_error():
                reasons.append(str(reply.error.reason))
            elif reply.content.array_records:
                reasons.append("sent under its node's name; it has no credential")
        questions = sorted(training, key=lambda message: message.metadata.dst_node_id)
        found: list[Message] = []
        for question, handle in zip(questions, sorted(box.updates), strict=False):
            seat = question.metadata.dst_node_id
            self.handles[seat, place.server_round] = handle.hex()
            found.append(Message(box.updates[handle], reply_to=question))
        for question in questions[len(found) :]:
            why = f"not admitted: {reasons.pop(0)}" if reasons else "no update came in"
            found.append(Message(Error(_REFUSED, why), reply_to=question))
        return found
