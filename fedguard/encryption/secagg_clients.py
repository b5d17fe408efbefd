"""The clients' side of SecAgg+: Flower's own mod, and a grid that runs it in this process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from flwr.app import Context, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.clientapp.typing import ClientAppCallable, Mod
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
from flwr.common.secure_aggregation.secaggplus_constants import (
    RECORD_KEY_CONFIGS,
    RECORD_KEY_STATE,
    Key,
    Stage,
)
from flwr.compat.common import recorddict_compat
from flwr.serverapp import Grid

from fedguard.encryption.errors import RefusedError
from fedguard.encryption.mod import is_training
from fedguard.encryption.protocol.weights import downscaled
from fedguard.grids.base import WrappedGrid
from fedguard.grids.messages import arrays_of
from fedguard.layout import ParameterLayout
from fedguard.updates import ClientUpdates


def secagg_mods() -> list[Mod]:
    """Return the mods of a ClientApp that takes part in SecAgg+: Flower's, and what it expects."""
    return [seat_mod, secaggplus_mod, delta_mod]


def seat_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Let Flower's mod take the id that the server knows this client by, and nothing around it.

    Flower 1.41 calls a client by its node id, and looks for its own keys under that; a server may
    have names of its own for its clients. It also lets ``train.default`` pass in the clear.
    """
    if not is_training(message):
        return call_next(message, context)
    request = message.content.config_records.get(RECORD_KEY_CONFIGS)
    if request is None or message.metadata.message_type != MessageType.TRAIN:
        raise RefusedError("a client that encrypts does not send its model in the clear")
    state = context.state.config_records.get(RECORD_KEY_STATE)
    if state is not None and request.get(Key.STAGE) == Stage.SHARE_KEYS:
        mine = [state["pk1"], state["pk2"]]
        names = [name for name, keys in request.items() if keys == mine]
        if len(names) == 1:
            state["nid"] = int(names[0])
    return call_next(message, context)


def delta_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Turn the app's reply into what Flower's SecAgg+ mod reads: a delta in the old fit format."""
    if message.metadata.message_type != MessageType.TRAIN:
        return call_next(message, context)
    arrays = arrays_of(message)
    layout = ParameterLayout.from_arrays(arrays)
    reply = call_next(message, context)
    trained = next(iter(reply.content.array_records.values()))
    delta = layout.vector_from_arrays(trained) - layout.vector_from_arrays(arrays)
    metrics: MetricRecord = next(iter(reply.content.metric_records.values()))
    examples = metrics["num-examples"]
    if isinstance(examples, list):
        raise ValueError("num-examples is a list")
    content = fit_content(downscaled(delta, layout).numpy(), examples)
    return Message(content, reply_to=message)


def fit_content(delta: np.ndarray, num_examples: float) -> RecordDict:
    """Return a delta and its weight as Flower's mods of the old fit format expect them."""
    status = Status(Code.OK, "")
    result = FitRes(status, ndarrays_to_parameters([delta]), round(num_examples), {})
    return recorddict_compat.fitres_to_recorddict(result, keep_input=True)


_NO_UPDATE, _MOD_FAILED = 1, 2


class SecAggClients(WrappedGrid):
    """A grid around any other whose clients run Flower's SecAgg+ mod on what they trained.

    Parameters
    ----------
    inner : Grid
        Where clients train.
    """

    def __init__(self, inner: Grid) -> None:
        super().__init__(inner)
        self._contexts: dict[int, Context] = {}
        self._updates: dict[int, tuple[np.ndarray, float]] = {}
        self._faults: dict[int, str] = {}

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Train where a model is sent, then let the mod answer."""
        instructions = list(messages)
        if not any(RECORD_KEY_CONFIGS in m.content.config_records for m in instructions):
            return self.inner.send_and_receive(instructions, timeout=timeout)
        training = [message for message in instructions if message.content.array_records]
        if training:
            self._train(training, timeout)
        return [self._answer(message) for message in instructions]

    def _train(self, training: Sequence[Message], timeout: float | None) -> None:
        plain = [
            Message(
                RecordDict({k: v for k, v in message.content.items() if k != RECORD_KEY_CONFIGS}),
                dst_node_id=message.metadata.dst_node_id,
                message_type=MessageType.TRAIN,
            )
            for message in training
        ]
        replies = self.inner.send_and_receive(plain, timeout=timeout)
        arrays = arrays_of(training[0])
        layout = getattr(replies, "layout", None) or ParameterLayout.from_arrays(arrays)
        updates = ClientUpdates.from_replies(
            replies,
            layout.vector_from_arrays(arrays),
            layout,
            expected=[message.metadata.dst_node_id for message in training],
        )
        self._faults = dict(updates.malformed)
        self._updates = {
            party: (
                downscaled(updates.deltas[row], layout).numpy(),
                float(updates.num_examples[row]),
            )
            for row, party in enumerate(updates.node_ids)
        }

    def _answer(self, message: Message) -> Message:
        party = message.metadata.dst_node_id
        if message.content.array_records and party not in self._updates:
            reason = self._faults.get(party, "this client has trained nothing")
            return Message(Error(_NO_UPDATE, reason), reply_to=message)
        if party not in self._contexts:
            self._contexts[party] = Context(0, party, {}, RecordDict(), {})

        def trained(instruction: Message, context: Context) -> Message:
            return Message(fit_content(*self._updates[party]), reply_to=instruction)

        try:
            return secaggplus_mod(message, self._contexts[party], trained)
        except Exception as error:
            # Flower turns what a ClientApp raises into an error reply.
            return Message(Error(_MOD_FAILED, f"{type(error).__name__}: {error}"), reply_to=message)
