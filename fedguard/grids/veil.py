"""`VeiledGrid`: a strategy sees nodes by opaque ids, as on a Flower server, not by number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedguard.grids.base import WrappedGrid
from fedguard.grids.messages import LazyReply
from fedguard.randomness import stream_seed
from fedguard.updates import ClientUpdates, StackedReplies, Verdict

Value = TypeVar("Value")


class Handles:
    """Which opaque id stands for which client: 63 random bits by (seed, client), for a whole run.

    Flower gives its nodes such ids. They stay the same over rounds and ``--resume``, so that rules
    with a memory work, and say nothing of a client's number, its data or its part in an attack.
    The run knows the map, for attacks, records and metrics; strategies never see it.

    Parameters
    ----------
    seed : int
        Seed of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._client_of: dict[int, int] = {}
        self._handle_of: dict[int, int] = {}

    def of(self, client: int) -> int:
        """Return a client's handle."""
        if client not in self._handle_of:
            handle = stream_seed(self.seed, 0, client, "node handle")
            self._handle_of[client], self._client_of[handle] = handle, client
        return self._handle_of[client]

    def client(self, handle: int) -> int:
        """Return whose handle it is; an id that is nobody's stays what it is."""
        return self._client_of.get(handle, handle)

    def keys(self, of: Mapping[int, Value]) -> dict[int, Value]:
        """Return a mapping by handle as one by client."""
        return {self.client(handle): value for handle, value in of.items()}

    def updates(self, of: ClientUpdates) -> ClientUpdates:
        """Return updates by handle as updates by client, their rows unmoved."""
        return replace(
            of,
            node_ids=tuple(self.client(node) for node in of.node_ids),
            malformed=self.keys(of.malformed),
            remarks=self.keys(of.remarks),
        )

    def verdict(self, of: Verdict) -> Verdict:
        """Return a verdict by handle as one by client."""
        return replace(of, reasons=self.keys(of.reasons))


class VeiledGrid(WrappedGrid):
    """A grid around any other, whose nodes go by their handles.

    It goes around everything else: attacks, the network and enrolment speak of clients inside it,
    the strategy of handles outside it. Messages are readdressed by copies, so that neither side's
    own are changed; replies that carry their matrix keep it.

    Parameters
    ----------
    inner : Grid
        Where clients go by their numbers.
    handles : Handles
        Who is who.
    """

    def __init__(self, inner: Grid, handles: Handles) -> None:
        super().__init__(inner)
        self.handles = handles
        self._asked: dict[str, dict[int, Message]] = {}
        self._known: tuple[Iterable[int], list[int]] = ((), [])

    def get_node_ids(self) -> Iterable[int]:
        """Return the handles of the inner grid's nodes, ascending."""
        found = self.inner.get_node_ids()
        clients = found if isinstance(found, range) else tuple(found)
        # Comparing is a hundred times as fast as sorting a million handles anew in every round.
        if clients != self._known[0]:
            self._known = clients, sorted(self.handles.of(client) for client in clients)
        return list(self._known[1])

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Exchange messages under the clients' own numbers; replies come back under handles."""
        instructions = list(messages)
        inward = [self._addressed(message) for message in instructions]
        replies = self.inner.send_and_receive(inward, timeout=timeout)
        asked = {message.metadata.dst_node_id: message for message in instructions}
        return self._outward(replies, asked)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push under the clients' own numbers."""
        instructions = list(messages)
        asked = {message.metadata.dst_node_id: message for message in instructions}
        ids = list(self.inner.push_messages([self._addressed(each) for each in instructions]))
        self._asked.update(dict.fromkeys(ids, asked))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull replies, which come under handles."""
        wanted = list(message_ids)
        asked = {node: m for name in wanted for node, m in self._asked.get(name, {}).items()}
        return self._outward(self.inner.pull_messages(wanted), asked)

    def _addressed(self, message: Message) -> Message:
        told = message.metadata
        return Message(
            message.content,
            dst_node_id=self.handles.client(told.dst_node_id),
            message_type=told.message_type,
            group_id=told.group_id,
            ttl=told.ttl,
        )

    def _outward(
        self, replies: Iterable[Message], asked: Mapping[int, Message]
    ) -> StackedReplies | list[Message]:
        arrived = [self._from_handle(reply, asked) for reply in replies]
        if isinstance(replies, StackedReplies):
            return StackedReplies(arrived, replies.deltas, replies.num_examples, replies.layout)
        return arrived

    def _from_handle(self, reply: Message, asked: Mapping[int, Message]) -> Message:
        told = reply.metadata
        handle = self.handles.of(told.src_node_id)
        question = asked.get(handle) or Message(
            RecordDict(), dst_node_id=handle, message_type=told.message_type
        )
        if reply.has_error():
            return Message(reply.error, reply_to=question)
        return LazyReply(question, _content_of(reply))


def _content_of(reply: Message) -> Callable[[], RecordDict]:
    """Return what reads a reply's content, when somebody does."""

    def read() -> RecordDict:
        content: RecordDict = reply.content
        return content

    return read
