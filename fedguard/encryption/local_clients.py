"""`LocalClients`: the clients' side of the protocol in front of a grid that trains in process.

The inner grid's clients train, and the coalition rewrites its replies, as without encryption; what
leaves this grid is what clients of a real federation would send. It shows cost and behaviour; in
one process nothing is secret from anyone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from fedguard.encryption.errors import RefusedError
from fedguard.encryption.protocol.agreement import Payload
from fedguard.encryption.protocol.endpoint import ClientEndpoint, ClientOptions, Update
from fedguard.encryption.protocol.identity import Identity, Roster
from fedguard.encryption.protocol.ledger import Training, model_digest
from fedguard.encryption.protocol.records import (
    REFUSED,
    round_of,
    stages_of,
    to_records,
    without_stages,
)
from fedguard.encryption.protocol.weights import downscaled
from fedguard.grids.base import WrappedGrid
from fedguard.grids.messages import arrays_of
from fedguard.layout import ParameterLayout
from fedguard.updates import ClientUpdates


class LocalClients(WrappedGrid):
    """A grid around any other whose clients encrypt what they trained.

    A call:

    1. sends the training instructions, without the protocol's records, to the inner grid;
    2. keeps each client's update, which its endpoint may be asked to encrypt later as well;
    3. lets every endpoint answer the stages it was asked for.

    Every client is enrolled beforehand: the roster lists all of them.

    Parameters
    ----------
    inner : Grid
        Where clients train.
    options : ClientOptions
        How they encrypt.
    """

    def __init__(self, inner: Grid, options: ClientOptions) -> None:
        super().__init__(inner)
        self.options = options
        self._identities: dict[int, Identity] = {}
        self._roster = Roster({})
        self._endpoints: dict[int, ClientEndpoint] = {}
        self._updates: dict[int, Update] = {}
        self._faults: dict[int, str] = {}

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Train where a model is sent, then answer the protocol's stages."""
        instructions = list(messages)
        if all(m.metadata.message_type != MessageType.TRAIN for m in instructions):
            return self.inner.send_and_receive(instructions, timeout=timeout)
        if not all(stages_of(message.content) for message in instructions):
            raise RefusedError("a client that encrypts does not send its model in the clear")
        self._enrol()
        training = [message for message in instructions if message.content.array_records]
        if training:
            self._train(training, timeout)
        return [self._answer(message) for message in instructions]

    def _enrol(self) -> None:
        for party in self.inner.get_node_ids():
            if party not in self._identities:
                source = self.options.source(f"identity {party}")
                self._identities[party] = Identity.generate(source)
                self._roster.keys[party] = self._identities[party].public

    def _train(self, training: Sequence[Message], timeout: float | None) -> None:
        replies = self.inner.send_and_receive(
            [without_stages(message) for message in training], timeout=timeout
        )
        arrays = arrays_of(training[0])
        layout = getattr(replies, "layout", None) or ParameterLayout.from_arrays(arrays)
        updates = ClientUpdates.from_replies(
            replies,
            layout.vector_from_arrays(arrays),
            layout,
            expected=[message.metadata.dst_node_id for message in training],
        )
        self._faults = dict(updates.malformed)
        claims = updates.num_examples.tolist()
        rounds = {m.metadata.dst_node_id: round_of(stages_of(m.content)) for m in training}
        model = model_digest(layout.vector_from_arrays(arrays))
        self._updates = {
            party: Update(
                downscaled(updates.deltas[row], layout).numpy(),
                claims[row],
                Training(rounds[party], model),
            )
            for row, party in enumerate(updates.node_ids)
        }

    def _answer(self, message: Message) -> Message:
        party = message.metadata.dst_node_id
        stages = stages_of(message.content)
        if party in self._faults:
            reason = self._faults[party]
            replies: dict[str, Payload] = {stage: {REFUSED: reason} for stage in stages}
        else:
            replies = self._endpoint(party).answer(stages, self._updates.get(party))
        return Message(to_records(replies), reply_to=message)

    def _endpoint(self, party: int) -> ClientEndpoint:
        if party not in self._endpoints:
            self._endpoints[party] = ClientEndpoint(
                self.options, party, self._identities[party], self._roster, {}
            )
        return self._endpoints[party]
