"""`FlowerGrid`: Flower's own grid with stable client ids."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from logging import WARNING
from typing import Any

from flwr.app import Error, Message, MessageType, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid

from fedguard.errors import RunError
from fedguard.grids.base import WrappedGrid
from fedguard.grids.identity import PARTITION_KEY, SIZE_KEY

_ABSENT = 1
"""Error code of the answer for a client that is not connected."""

_WRAPPED = "ClientAppException occurred. Message: "
"""What precedes a client's own words where Flower's simulation hands them on."""

_POLL = 1.0
"""Seconds between two looks at who is connected."""


class FlowerGrid(WrappedGrid):
    """A grid of Flower's that shows each node under its partition id.

    Flower draws node ids at random. Each node is asked once which partition it holds; from then on
    strategies, attacks and records speak of clients 0 to K - 1, as on the in-process grid.

    Where the number of clients is known, nothing waits for a node that is gone:

    1. the first call waits until every client is connected or the patience is used up;
    2. every client can be asked in every round, connected or not;
    3. one that is not connected is answered for with an error, and so recorded as missing;
    4. one that joins late, or comes back with a new node id, takes its place from the next round;
    5. one whose ClientApp fails when it is asked who it is has not answered: it is asked again,
       until it has said so or its patience is used up, and is seated only then.

    Parameters
    ----------
    inner : Grid
        The grid that Flower hands to a ServerApp.
    patience : float
        Seconds that a new node has to say which partition it holds, and that the first call waits
        for missing clients.
    clients : int, optional
        Number of clients K. Nodes with other partition ids, or with one that a connected node
        holds already, are then left out. If it is not given, the clients are whoever is connected,
        and a node that names no partition of its own keeps its own id.
    deployed : bool
        Whether the nodes are real ones, which encrypt for themselves.
    """

    def __init__(
        self,
        inner: Grid,
        patience: float = 120.0,
        clients: int | None = None,
        *,
        deployed: bool = False,
    ) -> None:
        super().__init__(inner)
        self.deployed = deployed
        self.patience = patience
        self.clients = clients
        self._claims: dict[int, tuple[int | None, int | None]] = {}
        self._node_of: dict[int, int] = {}
        self._client_of: dict[int, int] = {}
        self._refused: set[int] = set()
        self._first_seen: dict[int, float] = {}
        self._complaints: dict[int, str] = {}
        self._gathered = False

    def get_node_ids(self) -> Iterable[int]:
        """Return the clients: all K where their number is known, else those connected now."""
        if self.clients is None:
            return [self._client_of[node] for node in self._meet() if node in self._client_of]
        if not self._gathered:
            self._gather(self.clients)
        else:
            self._meet()
        return list(range(self.clients))

    def federation_size(self) -> int | None:
        """Return how many partitions the nodes say there are, once one of them is connected.

        Returns
        -------
        int or None
            The largest ``num-partitions`` that a node names; None if none does in time.
        """
        deadline = time.monotonic() + self.patience
        while True:
            self._meet()
            sizes = [size for _, size in self._claims.values() if size is not None]
            if sizes or time.monotonic() >= deadline:
                return max(sizes, default=None)
            time.sleep(_POLL)

    def _gather(self, clients: int) -> None:
        """Wait for all clients as long as patience lasts; say who is missing."""
        deadline = time.monotonic() + self.patience
        while True:
            connected = self._meet(deadline)
            missing = sorted(set(range(clients)) - {self._client_of.get(n) for n in connected})
            if not missing or time.monotonic() >= deadline:
                break
            time.sleep(_POLL)
        if len(missing) == clients:
            raise RunError(self._nobody(len(connected)))
        self._gathered = True
        if missing:
            log(WARNING, "starting without clients %s: not connected", missing)

    def _nobody(self, connected: int) -> str:
        told = f"no SuperNode of this federation answered within {self.patience:g} s; "
        if not connected:
            return told + "none is connected: look at the SuperNodes' logs, or raise join_timeout"
        last = next(reversed(self._complaints.values()), "no reply")
        return (
            f"{told}{connected} are connected, the last one said: {last}. A machine too busy to "
            "start a client within Flower's 30 s looks like this: fewer SuperNodes on it, "
            "OMP_NUM_THREADS=1, a larger APP_PATIENCE of docker/federation.sh, or join_timeout"
        )

    def _meet(self, deadline: float = math.inf) -> list[int]:
        """Ask new nodes for their partition, give out the places, return who is connected."""
        connected = list(self.inner.get_node_ids())
        for node in self._first_seen.keys() - set(connected):
            del self._first_seen[node]  # if it comes back, its patience begins anew
            if node not in self._client_of:
                self._claims.pop(node, None)
                self._refused.discard(node)
        self._introduce([node for node in connected if node not in self._claims], deadline)
        for node in connected:
            if node in self._claims and node not in self._client_of:
                self._seat(node, connected)
        return connected

    def _introduce(self, strangers: list[int], deadline: float) -> None:
        """Ask nodes who they are; keep an answer without error, or that patience is used up."""
        if not strangers:
            return
        now = time.monotonic()
        until = {n: self._first_seen.setdefault(n, now) + self.patience for n in strangers}
        questions = [
            Message(RecordDict(), dst_node_id=node, message_type=MessageType.QUERY)
            for node in strangers
        ]
        left = max(min(deadline, *until.values()) - now, _POLL)
        for reply in self.inner.send_and_receive(questions, timeout=min(left, self.patience)):
            node = reply.metadata.src_node_id
            if not reply.has_error():
                self._claims[node] = _claimed_place(reply)
            else:
                self._complaints[node] = " ".join(str(reply.error.reason).split())[:200]
        for node in strangers:
            if node not in self._claims and time.monotonic() >= until[node]:
                self._claims[node] = (None, None)

    def _seat(self, node: int, connected: list[int]) -> None:
        """Give a node the place it claims, unless another connected node holds it."""
        client, _ = self._claims[node]
        holder = None if client is None else self._node_of.get(client)
        if self.clients is None:
            # Two nodes may claim one partition; the second keeps its own id.
            if client is None or holder is not None:
                client, holder = node, None
        elif client is None or client >= self.clients or holder in connected:
            if node not in self._refused:
                self._refused.add(node)
                why = _why(client, self.clients, self._complaints.get(node))
                log(WARNING, "node %s is left out: %s", node, why)
            return
        if holder is not None:
            self._client_of.pop(holder, None)
            self._claims.pop(holder, None)
        self._client_of[node] = client
        self._node_of[client] = node

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Exchange messages under the nodes' own ids; replies come back under client ids."""
        asked: dict[int, Message] = {}
        outgoing: list[Message] = []
        answers: list[Message] = []
        connected = None if self.clients is None else set(self.inner.get_node_ids())
        for message in messages:
            client = message.metadata.dst_node_id
            node = self._node_of.get(client, client)
            if connected is not None and node not in connected:
                log(WARNING, "client %s is not connected", client)
                answers.append(Message(Error(_ABSENT, "not connected"), reply_to=message))
                continue
            asked[node] = message
            outgoing.append(_addressed(message, node, timeout))
        if outgoing:
            replies = self.inner.send_and_receive(outgoing, timeout=timeout)
            answers += [_readdress(r, asked) for r in replies if r.metadata.src_node_id in asked]
        return answers


def _addressed(message: Message, node: int, timeout: float | None) -> Message:
    """Return a copy for a node; nobody need work on it once the server has stopped waiting."""
    ttl = message.metadata.ttl
    return Message(
        message.content,
        dst_node_id=node,
        message_type=message.metadata.message_type,
        group_id=message.metadata.group_id,
        ttl=ttl if timeout is None else min(ttl, timeout + _POLL),
    )


def _claimed_place(reply: Message) -> tuple[int | None, int | None]:
    """Return the partition that a node says it holds, and how many it says there are."""
    place: dict[str, int] = {}
    for record in reply.content.metric_records.values():
        for key in (PARTITION_KEY, SIZE_KEY):
            value = record.get(key)
            if isinstance(value, int) and value >= 0:
                place.setdefault(key, value)
    return place.get(PARTITION_KEY), place.get(SIZE_KEY)


def _why(client: int | None, clients: int, complaint: str | None) -> str:
    if client is None:
        return "it names no partition" + (f"; it said: {complaint}" if complaint else "")
    if client >= clients:
        return f"it claims partition {client} of {clients}"
    return f"another connected node holds partition {client}"


def _readdress(reply: Message, asked: dict[int, Message]) -> Message:
    question = asked[reply.metadata.src_node_id]
    if reply.has_error():
        error = Error(reply.error.code, _said_by_client(str(reply.error.reason)))
        return Message(error, reply_to=question)
    return Message(reply.content, reply_to=question)


def _said_by_client(reason: str) -> str:
    """Return what a client said; Flower's simulation wraps it in tracebacks."""
    _, wrapped, said = reason.rpartition(_WRAPPED)
    return " ".join(said.removesuffix("'>").split()) if wrapped else reason


def on_ray() -> dict[str, Any]:
    """Return how Flower's simulation runtime is to start Ray: on this machine, a CPU per client.

    Without an address Ray joins whichever cluster was started last here, also one that is gone:
    only ``RAY_ADDRESS`` says that one is meant.
    """
    return {
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        "init_args": {"address": os.environ.get("RAY_ADDRESS") or "local"},
    }
