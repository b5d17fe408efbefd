"""Flower's own runtime as a grid: stable client ids, and the simulation engine with Ray."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable

from flwr.app import Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedguard.config import SimulationConfig
from fedguard.grids.base import WrappedGrid

PARTITION_KEY = "partition-id"

_SIMULATED_PATIENCE = 1800.0
"""Seconds that simulated nodes have to introduce themselves: Ray may start slowly, none is lost."""


class FlowerGrid(WrappedGrid):
    """A grid of Flower's that shows each node under its partition id.

    Flower draws node ids at random in every run. Each node is asked once which partition it holds;
    from then on strategies, attacks and records speak of clients 0 to K - 1, as on the in-process
    grid. A node that does not answer the question keeps its own id.

    Parameters
    ----------
    inner : Grid
        The grid that Flower hands to a ServerApp.
    patience : float
        Seconds that a new node has to say which partition it holds.
    """

    def __init__(self, inner: Grid, patience: float = 120.0) -> None:
        super().__init__(inner)
        self.patience = patience
        self._node_of: dict[int, int] = {}
        self._client_of: dict[int, int] = {}

    def get_node_ids(self) -> Iterable[int]:
        """Return the partition ids of the nodes that are connected now."""
        connected = list(self.inner.get_node_ids())
        self._introduce([node for node in connected if node not in self._client_of])
        return [self._client_of[node] for node in connected]

    def _introduce(self, strangers: list[int]) -> None:
        if not strangers:
            return
        questions = [
            Message(RecordDict(), dst_node_id=node, message_type=MessageType.QUERY)
            for node in strangers
        ]
        replies = self.inner.send_and_receive(questions, timeout=self.patience)
        claims = {reply.metadata.src_node_id: _claimed_partition(reply) for reply in replies}
        for node in strangers:
            client = claims.get(node)
            # Two nodes may claim one partition; the second keeps its own id.
            if client is None or client in self._node_of:
                client = node
            self._client_of[node] = client
            self._node_of[client] = node

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Exchange messages under the nodes' own ids; replies come back under client ids."""
        asked: dict[int, Message] = {}
        outgoing = []
        for message in messages:
            node = self._node_of.get(message.metadata.dst_node_id, message.metadata.dst_node_id)
            asked[node] = message
            outgoing.append(
                Message(
                    message.content,
                    dst_node_id=node,
                    message_type=message.metadata.message_type,
                    group_id=message.metadata.group_id,
                    ttl=message.metadata.ttl,
                )
            )
        replies = self.inner.send_and_receive(outgoing, timeout=timeout)
        return [
            _readdress(reply, asked) for reply in replies if reply.metadata.src_node_id in asked
        ]


def _claimed_partition(reply: Message) -> int | None:
    if reply.has_error():
        return None
    for record in reply.content.metric_records.values():
        value = record.get(PARTITION_KEY)
        if isinstance(value, int) and value >= 0:
            return value
    return None


def _readdress(reply: Message, asked: dict[int, Message]) -> Message:
    question = asked[reply.metadata.src_node_id]
    if reply.has_error():
        return Message(reply.error, reply_to=question)
    return Message(reply.content, reply_to=question)


def run_in_flower(config: SimulationConfig, serve: Callable[[Grid], None]) -> None:
    """Run `serve` as a ServerApp of Flower's simulation runtime, its clients on Ray.

    Parameters
    ----------
    config : SimulationConfig
        What the clients build their data, model and training from.
    serve : callable
        Runs the federation on the grid that it is given.
    """
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    from flwr.simulation import run_simulation

    from fedguard.flower_app import make_client_app

    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        serve(FlowerGrid(grid, patience=_SIMULATED_PATIENCE))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        run_simulation(
            server_app,
            make_client_app(config.model_dump_json()),
            num_supernodes=config.clients,
            backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
        )
