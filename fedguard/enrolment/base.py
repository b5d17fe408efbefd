"""`Enrolment`: decides whose reply is admitted; two grids: where tickets are made, and the door."""

from __future__ import annotations

import hashlib
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from flwr.app import Error, Message, MessageType
from flwr.serverapp import Grid

from fedguard import registry
from fedguard.config import SimulationConfig
from fedguard.enrolment.digests import content_digest
from fedguard.errors import ConfigurationError
from fedguard.grids.base import WrappedGrid
from fedguard.grids.messages import server_round_of
from fedguard.traits import Traits
from fedguard.updates import StackedReplies

_REFUSED = 3
"""Error code of a reply that was not admitted."""


class Enrolment(ABC):
    """Clients enrol once, attach a ticket to every reply, and the aggregator checks it.

    Attributes
    ----------
    linkable : bool
        Whether a client keeps one handle from round to round.
    named : bool
        Whether the aggregator knows who sent what. Where it does not, `refusal` reads nothing of
        `client`, which is the simulation's own number, for its records.
    deployable : bool
        Whether clients make their tickets themselves in a federation of several machines.
    """

    linkable: bool = True
    named: bool = True
    deployable: bool = False

    def gather(self, grid: Grid) -> Grid | None:
        """Return the grid of a deployment in which clients hand in updates under no name of theirs.

        None, the default, where replies come with their senders' names, as in a simulation.
        """
        return None

    def enrol(self, clients: int, seed: int) -> None:  # noqa: B027
        """Enrol clients 0 to K - 1 before the first round; nothing to do by default.

        Parameters
        ----------
        clients : int
            Number of clients K.
        seed : int
            Of the run: a simulation repeats itself, secrets and all.
        """

    @abstractmethod
    def ticket(self, client: int, server_round: int, digest: bytes, exchange: int = 0) -> bytes:
        """Return what a client attaches to its reply; the client's half.

        Parameters
        ----------
        client : int
            Whose ticket it is.
        server_round, exchange : int
            The round, and which exchange of messages in it.
        digest : bytes
            SHA-256 of all that the reply holds.
        """

    @abstractmethod
    def refusal(
        self, client: int, server_round: int, digest: bytes, ticket: bytes, exchange: int = 0
    ) -> str | None:
        """Return why a reply is not admitted, None where it is; the aggregator's half.

        Parameters
        ----------
        client : int
            Who claims to have sent it.
        server_round, exchange : int
            The round that is open, and which exchange of messages in it.
        digest : bytes
            SHA-256 of all that the reply holds.
        ticket : bytes
            What came with it.
        """

    def handle_of(self, client: int, server_round: int) -> str | None:
        """Return under which handle a client's reply was admitted; for the records alone."""
        return None

    def describe(self) -> str:
        """Return in one line who can link what, for the threat model; nothing by default."""
        return ""

    def check_cohort(self, asked: int) -> None:  # noqa: B027
        """Raise `ConfigurationError` where a round of so many clients hides nobody."""


class Exchanges:
    """Numbers the exchanges of a round: plain rules have one, secure aggregation several."""

    def __init__(self) -> None:
        self._place = (0, -1)

    def next(self, message: Message) -> tuple[int, int]:
        """Return the round of an exchange that begins with a message, and its number in it.

        A message that names no round belongs to the round before.
        """
        last, exchange = self._place
        named = server_round_of(message, last)
        self._place = (named, 0 if named != last else exchange + 1)
        return self._place


class TicketedGrid(WrappedGrid):
    """A grid around any other whose clients attach a ticket to every training reply.

    It goes around whoever may still change a client's reply on the client's behalf, liars
    included, and inside the network, which may lose, double or spoil it.

    Parameters
    ----------
    inner : Grid
        Where clients are.
    enrolment : Enrolment
        Its clients' half makes the tickets.

    Attributes
    ----------
    tickets : dict of int to bytes
        Client to the ticket of its last reply.
    """

    def __init__(self, inner: Grid, enrolment: Enrolment) -> None:
        super().__init__(inner)
        self.enrolment = enrolment
        self.tickets: dict[int, bytes] = {}
        self._exchanges = Exchanges()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Exchange messages; training replies get a ticket each."""
        instructions = list(messages)
        training = _training(instructions)
        replies = self.inner.send_and_receive(instructions, timeout=timeout)
        if not training:
            return replies
        server_round, exchange = self._exchanges.next(training[0])
        arrived = replies if isinstance(replies, list) else list(replies)
        self.tickets = {}
        for position, reply in _to_check(arrived):
            client = reply.metadata.src_node_id
            digest = _digest(arrived, position)
            self.tickets[client] = self.enrolment.ticket(client, server_round, digest, exchange)
        return arrived


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
    ticketed : TicketedGrid, optional
        Where in `inner` tickets are made; right here if left out.
    """

    def __init__(
        self, inner: Grid, enrolment: Enrolment, ticketed: TicketedGrid | None = None
    ) -> None:
        self.ticketed = ticketed or TicketedGrid(inner, enrolment)
        super().__init__(self.ticketed if ticketed is None else inner)
        self.enrolment = enrolment
        self._exchanges = Exchanges()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Exchange messages; training replies pass the door."""
        instructions = list(messages)
        training = {m.metadata.dst_node_id: m for m in _training(instructions)}
        replies = self.inner.send_and_receive(instructions, timeout=timeout)
        if not training:
            return replies
        place = self._exchanges.next(next(iter(training.values())))
        arrived = replies if isinstance(replies, list) else list(replies)
        for position, reply in _to_check(arrived):
            client = reply.metadata.src_node_id
            why = self._refusal(client, _digest(arrived, position), place)
            if why is not None and client in training:
                refused = Error(_REFUSED, f"not admitted: {why}")
                arrived[position] = Message(refused, reply_to=training[client])
        return arrived

    def _refusal(self, client: int, digest: bytes, place: tuple[int, int]) -> str | None:
        ticket = self.ticketed.tickets.get(client, b"")
        server_round, exchange = place
        return self.enrolment.refusal(client, server_round, digest, ticket, exchange)


def _training(messages: Sequence[Message]) -> list[Message]:
    return [m for m in messages if m.metadata.message_type == MessageType.TRAIN]


def _to_check(replies: Sequence[Message]) -> list[tuple[int, Message]]:
    """Return the training replies that are no errors, with their places in the list."""
    return [
        (position, reply)
        for position, reply in enumerate(replies)
        if not reply.has_error() and reply.metadata.message_type == MessageType.TRAIN
    ]


def _digest(replies: list[Message], position: int) -> bytes:
    """Return the SHA-256 of a reply; read from its row where replies carry their matrix."""
    if not isinstance(replies, StackedReplies):
        return content_digest(replies[position].content)
    client = replies[position].metadata.src_node_id
    # A second copy of a reply has no row of its own.
    row = next(i for i, each in enumerate(replies) if each.metadata.src_node_id == client)
    found = hashlib.sha256(struct.pack(">d", float(replies.num_examples[row])))
    found.update(replies.deltas[row].numpy().tobytes())
    return found.digest()


def make_enrolment(config: SimulationConfig, strategy: Traits) -> Enrolment | None:
    """Make the enrolment that a configuration names, its clients enrolled; None for none.

    Raises
    ------
    ConfigurationError
        If it is none, if the strategy judges clients by earlier rounds and nobody has a lasting
        handle, or if so few clients are asked that nobody is hidden among them.
    """
    part = config.enrolment
    if part is None:
        return None
    made = registry.create("enrolment", part.name, **part.arguments)
    if not isinstance(made, Enrolment):
        raise ConfigurationError("enrolment", part.name, "a subclass of fedguard's Enrolment")
    if not made.linkable and (strategy.history or strategy.lasting_keys):
        why = "judges clients by earlier rounds" if strategy.history else "has lasting client keys"
        raise ConfigurationError(
            "enrolment",
            part.name,
            f"one with lasting handles (enrolment.linkable=true); {config.strategy.name} {why}",
        )
    try:
        made.enrol(config.clients, config.seed)
        made.check_cohort(max(int(config.clients * config.fraction), 1))
    except ConfigurationError as error:
        raise error.within("enrolment") if error.field not in ("fraction",) else error from None
    return made


def check_deployed(
    config: SimulationConfig, enrolment: Enrolment | None, needs: frozenset[str]
) -> None:
    """Refuse a deployment in which enrolment would be a lie, or what names clients would go astray.

    Parameters
    ----------
    config : SimulationConfig
        The run.
    enrolment : Enrolment or None
        What admits replies.
    needs : frozenset of str
        What the attack needs.

    Raises
    ------
    ConfigurationError
        For the first thing that does not fit.
    """
    if enrolment is None:
        return
    if not enrolment.deployable:
        name = config.enrolment.name if config.enrolment is not None else ""
        told = "k-pseudonym with a registrar; here the server would make its clients' tickets"
        raise ConfigurationError("enrolment", name, told)
    if "updates" in needs:
        told = "none or feature-noise; the server cannot change updates of whom it cannot name"
        raise ConfigurationError("attack", config.attack.name, told)
    if config.faults.active:
        raise ConfigurationError("faults", "some", "none with enrolment in a deployment")
