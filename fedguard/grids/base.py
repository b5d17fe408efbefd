"""What every grid of ours shares: Flower's `Grid` reduced to `get_node_ids` and one exchange."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedguard.grids.identity import LOCAL_RUN_ID, assume_server_identity


class LocalGrid(Grid):
    """A grid outside a Flower run; a subclass says who the nodes are and how they answer."""

    def __init__(self) -> None:
        assume_server_identity()
        self._run = Run.create_empty(LOCAL_RUN_ID)
        self._pending: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        """Set the run this grid operates in."""
        self._run = run

    @property
    def run(self) -> Run:
        """Run information."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create an instruction for one node."""
        return Message(
            content,
            dst_node_id=dst_node_id,
            message_type=message_type,
            group_id=group_id,
            ttl=ttl,
        )

    @abstractmethod
    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all nodes."""

    @abstractmethod
    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send instructions and return the replies."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Answer instructions at once and keep the replies until they are pulled."""
        ids = []
        for reply in self.send_and_receive(messages):
            identifier = f"reply-{len(self._pending)}-{reply.metadata.src_node_id}"
            self._pending[identifier] = reply
            ids.append(identifier)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies kept under the given ids, once."""
        wanted = [self._pending.pop(identifier, None) for identifier in message_ids]
        return [reply for reply in wanted if reply is not None]


class WrappedGrid(Grid):
    """A grid around another one, which passes on what it does not change."""

    def __init__(self, inner: Grid) -> None:
        self.inner = inner

    def set_run(self, run: Run) -> None:
        """Set the run of the inner grid."""
        self.inner.set_run(run)

    @property
    def run(self) -> Run:
        """Run information of the inner grid."""
        return self.inner.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create an instruction through the inner grid."""
        return self.inner.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the inner grid's nodes."""
        return self.inner.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push through the inner grid, unchanged."""
        return self.inner.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull through the inner grid, unchanged."""
        return self.inner.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send and receive through the inner grid, unchanged."""
        return self.inner.send_and_receive(messages, timeout=timeout)
