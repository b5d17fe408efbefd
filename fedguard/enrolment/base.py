"""`Enrolment`: decides whose reply is admitted; `EnrolledGrid`: the door that it keeps."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from flwr.app import Error, Message, MessageType
from flwr.serverapp import Grid

from fedguard import registry
from fedguard.config import SimulationConfig
from fedguard.errors import ConfigurationError
from fedguard.grids.base import WrappedGrid
from fedguard.grids.messages import server_round_of
from fedguard.traits import Traits
from fedguard.updates import StackedReplies

_REFUSED = 3
"""Error code of a reply that was not admitted."""


class Enrolment(ABC):
    """Clients enrol once, attach a ticket to every reply, and the aggregator checks it."""

    linkable: ClassVar[bool] = True
    """Whether a client keeps one handle from round to round."""

    @abstractmethod
    def ticket(self, client: int, server_round: int, digest: bytes) -> bytes:
        """Return what a client attaches to its reply; the client's half."""

    @abstractmethod
    def refusal(self, client: int, server_round: int, digest: bytes, ticket: bytes) -> str | None:
        """Return why a reply is not admitted, None where it is; the aggregator's half.

        Parameters
        ----------
        client : int
            Who claims to have sent it.
        server_round : int
            The round that is open.
        digest : bytes
            SHA-256 of the reply's update.
        ticket : bytes
            What came with it.
        """


class EnrolledGrid(WrappedGrid):
    """A grid around any other that admits training replies by their tickets.

    A reply that is not admitted is handed on as an error with the reason, so that it is recorded
    and the round goes on without it.

    Parameters
    ----------
    inner : Grid
        Where clients are.
    enrolment : Enrolment
        Both halves of the protocol.
    """

    def __init__(self, inner: Grid, enrolment: Enrolment) -> None:
        super().__init__(inner)
        self.enrolment = enrolment
        self._calls = 0

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Exchange messages; training replies pass the door."""
        instructions = list(messages)
        training = [m for m in instructions if m.metadata.message_type == MessageType.TRAIN]
        replies = self.inner.send_and_receive(instructions, timeout=timeout)
        if not training:
            return replies
        self._calls += 1
        server_round = server_round_of(training[0], self._calls)
        arrived = replies if isinstance(replies, list) else list(replies)
        for position, reply in enumerate(arrived):
            if reply.has_error() or reply.metadata.message_type != MessageType.TRAIN:
                continue
            client = reply.metadata.src_node_id
            digest = _digest(arrived, position)
            ticket = self.enrolment.ticket(client, server_round, digest)
            why = self.enrolment.refusal(client, server_round, digest, ticket)
            question = next((m for m in training if m.metadata.dst_node_id == client), None)
            if why is not None and question is not None:
                refused = Error(_REFUSED, f"not admitted: {why}")
                arrived[position] = Message(refused, reply_to=question)
        return arrived


def _digest(replies: list[Message], position: int) -> bytes:
    """Return the SHA-256 of a reply's update."""
    if isinstance(replies, StackedReplies) and position < len(replies.deltas):
        return hashlib.sha256(replies.deltas[position].numpy().tobytes()).digest()
    found = hashlib.sha256()
    for record in replies[position].content.array_records.values():
        for name, array in record.items():
            found.update(name.encode() + b"\0" + array.data)
    return found.digest()


def make_enrolment(config: SimulationConfig, strategy: Traits) -> Enrolment | None:
    """Make the enrolment that a configuration names; None for none.

    Raises
    ------
    ConfigurationError
        If it is none, or the strategy judges clients by earlier rounds and nobody has a lasting
        handle.
    """
    part = config.enrolment
    if part is None:
        return None
    made = registry.create("enrolment", part.name, **part.arguments)
    if not isinstance(made, Enrolment):
        raise ConfigurationError("enrolment", part.name, "a subclass of fedguard's Enrolment")
    if strategy.history and not made.linkable:
        raise ConfigurationError(
            "enrolment",
            part.name,
            f"one with lasting handles; {config.strategy.name} judges clients by earlier rounds",
        )
    return made
