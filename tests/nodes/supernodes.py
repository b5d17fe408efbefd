"""SuperNodes without processes: fedguard's own ClientApp, messages and contexts as protobuf."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

from fedguard.encryption.lattice.sampling import SystemRandom
from fedguard.encryption.protocol.identity import Identity
from fedguard.flower_app import client_app
from fedguard.grids.base import LocalGrid

RUN = 7
Sabotage = Callable[["SuperNodes", int, Message], bool]
"""Called with each message; whether the node is gone and does not answer."""


def over_the_wire(content: RecordDict) -> RecordDict:
    return recorddict_from_proto(recorddict_to_proto(content))


def enrol(folder: Path, clients: int, **more: object) -> list[dict[str, object]]:
    """Write keys and roster as docker/certificates.py does; return each node's configuration."""
    keys = {client: Identity.generate(SystemRandom()) for client in range(clients)}
    roster = folder / "roster.json"
    roster.write_text(json.dumps({str(c): key.public.hex() for c, key in keys.items()}))
    found = []
    for client, key in keys.items():
        path = folder / f"{client}.identity"
        path.write_text(key.secret.hex())
        found.append(
            {
                "partition-id": client,
                "num-partitions": clients,
                "fedguard-identity": str(path),
                "fedguard-roster": str(roster),
                "fedguard-ledger": str(folder / f"{client}.ledger"),
                **more,
            }
        )
    return found


class SuperNodes(LocalGrid):
    """Nodes with ids of Flower's own kind; what one raises is its error reply."""

    def __init__(
        self,
        configs: list[dict[str, object]],
        run_config: dict[str, object],
        sabotage: Sabotage = lambda *_: False,
    ) -> None:
        super().__init__()
        self.configs = {1000 + 37 * place: config for place, config in enumerate(configs)}
        self.run_config = run_config
        self.sabotage = sabotage
        self.states = {node: RecordDict() for node in self.configs}
        self.failures: list[str] = []
        self.sent: list[tuple[int, RecordDict]] = []

    def get_node_ids(self) -> Iterable[int]:
        return list(self.configs)

    def restart(self, node: int) -> None:
        """Let a node forget all that Flower kept for it."""
        self.states[node] = RecordDict()

    def arrays_sent(self) -> list[int]:
        """Return how many arrays each record of arrays held that a node sent."""
        records = (content.array_records.values() for _, content in self.sent)
        return [len(record) for found in records for record in found]

    def place(self, node: int) -> int:
        return (node - 1000) // 37

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return [reply for message in messages if (reply := self._answer(message)) is not None]

    def _answer(self, message: Message) -> Message | None:
        node = message.metadata.dst_node_id
        if self.sabotage(self, node, message):
            return None
        state = over_the_wire(self.states[node])
        context = Context(RUN, node, dict(self.configs[node]), state, dict(self.run_config))
        arrived = Message(
            over_the_wire(message.content),
            dst_node_id=node,
            message_type=message.metadata.message_type,
        )
        try:
            reply = client_app(arrived, context)
        except Exception as failure:  # Flower turns it into an error reply
            self.failures.append(str(failure))
            return Message(Error(2, str(failure)), reply_to=message)
        self.states[node] = context.state
        content = over_the_wire(reply.content)
        self.sent.append((self.place(node), content))
        return Message(content, reply_to=message)
