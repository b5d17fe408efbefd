"""A grid whose nodes are parties in this process, each behind a real ClientApp."""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedguard.grids.base import LocalGrid
from fedguard.grids.identity import LOCAL_RUN_ID, PARTITION_KEY


class PartyGrid(LocalGrid):
    """The message path without a network: every question and answer is a Flower message.

    Parameters
    ----------
    app : ClientApp
        The parties' app.
    parties : int
        Number of parties P; node p holds partition p.
    """

    def __init__(self, app: ClientApp, parties: int) -> None:
        super().__init__()
        self.app = app
        self.contexts = {
            party: Context(
                run_id=LOCAL_RUN_ID,
                node_id=party,
                node_config={PARTITION_KEY: party},
                state=RecordDict(),
                run_config={},
            )
            for party in range(parties)
        }

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all nodes."""
        return list(self.contexts)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send instructions and return the replies."""
        return [self.app(one, self.contexts[one.metadata.dst_node_id]) for one in messages]
