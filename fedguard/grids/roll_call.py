"""`RollCall`: a grid that knows who the nodes are and reaches none of them."""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import Message

from fedguard.grids.base import LocalGrid


class RollCall(LocalGrid):
    """Nodes 0 to K - 1 that never answer; to see what a strategy would ask.

    Parameters
    ----------
    clients : int
        Number of nodes K.
    """

    def __init__(self, clients: int) -> None:
        super().__init__()
        self.clients = clients

    def get_node_ids(self) -> Iterable[int]:
        """Return 0 to K - 1."""
        return range(self.clients)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Return no reply."""
        return []
