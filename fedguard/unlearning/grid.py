"""`UnlearningClients`: clients that know how to forget, around a grid that trains in process."""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import Message
from flwr.serverapp import Grid

from fedguard.clients.training import ClientTrainer
from fedguard.grids.base import WrappedGrid
from fedguard.unlearning.client import answer, instructed
from fedguard.unlearning.instructions import is_unlearning


class UnlearningClients(WrappedGrid):
    """Answer unlearning's own instructions; pass training on, without the rows to be left out.

    It sits inside the coalition: what the attack rewrites are replies to training, so a malicious
    client that is told to forget does so. The server bounds what it accepts either way.

    Parameters
    ----------
    inner : Grid
        Where clients train.
    trainer : ClientTrainer
        The trainer that the inner grid uses.
    """

    def __init__(self, inner: Grid, trainer: ClientTrainer) -> None:
        super().__init__(inner)
        self.trainer = trainer

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Exchange messages with the clients."""
        instructions = list(messages)
        own = [message for message in instructions if is_unlearning(message)]
        others = [message for message in instructions if not is_unlearning(message)]
        if not own:
            told = [(message.metadata.dst_node_id, message) for message in others]
            with instructed(self.trainer, told):
                return self.inner.send_and_receive(others, timeout=timeout)
        replies = [answer(m, self.trainer, m.metadata.dst_node_id) for m in own]
        return [*replies, *(self.send_and_receive(others, timeout=timeout) if others else [])]
