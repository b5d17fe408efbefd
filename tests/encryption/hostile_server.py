"""A server that drives real clients through messages, and lies where a test wants it to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from encrypted_clients import LAYOUT, FixedClients, first_model, small
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict

from fedguard.encryption.ckks import Ckks
from fedguard.encryption.errors import ProtocolError
from fedguard.encryption.local_clients import LocalClients
from fedguard.encryption.protocol.records import REFUSED, stages_of, to_records
from fedguard.encryption.xmkckks import XmkCkks


def make_strategy(scheme: str, clients: int, **options: Any) -> XmkCkks | Ckks:
    """Return the strategy of a scheme for small federations."""
    if scheme == "ckks":
        return Ckks(**options, **small(clients))
    return XmkCkks(backend="numpy", **options, **small(clients))


def another_model(step: float) -> ArrayRecord:
    """Return a model that differs from the first one by `step` everywhere."""
    return LAYOUT.to_arrays(LAYOUT.vector_from_arrays(first_model()) + step)


class Hostile:
    """Clients of one federation and a server that sends them whatever it likes.

    `told` is the round that the training messages claim: the same round twice means the same
    updates twice.
    """

    def __init__(self, scheme: str, clients: int = 5, **options: Any) -> None:
        self.strategy = make_strategy(scheme, clients, **options)
        self.truth = FixedClients(clients)
        self.grid = LocalClients(self.truth, self.strategy.client_options)
        self.told = 1

    def send(
        self, trip: Mapping[int, Mapping[str, Mapping[str, object]]], model: ArrayRecord | None
    ) -> dict[int, dict[str, Mapping[str, object]]]:
        """Send one trip; return every client's replies."""
        extra: dict[str, Any] = {}
        if model is not None:
            extra = {"arrays": model, "config": ConfigRecord({"server-round": self.told})}
        messages = [
            Message(
                RecordDict({**extra, **to_records(stages)}),
                dst_node_id=party,
                message_type=MessageType.TRAIN,
            )
            for party, stages in sorted(trip.items())
        ]
        replies = self.grid.send_and_receive(messages)
        return {reply.metadata.src_node_id: stages_of(reply.content) for reply in replies}

    def play(
        self, server_round: int, cohort: tuple[int, ...], model: ArrayRecord | None, group=None
    ) -> np.ndarray:
        """Run an honest-looking round; return the sum of the cohort's weighted updates.

        Raises `ProtocolError` where clients refuse so much that nothing opens.
        """
        group = group or self.strategy.make_group(cohort, LAYOUT.size)
        flow = group.run(server_round)
        trip = next(flow)
        while True:
            answers, model = self.send(trip, model), None
            try:
                trip = flow.send(answers)
            except StopIteration as done:
                return done.value.mean * done.value.num_examples
            except ProtocolError as error:
                raise ProtocolError(f"{error}; {group.faults}") from error

    def update(self, party: int, server_round: int) -> np.ndarray:
        """Return what an attacker is after: a client's weighted update."""
        weight = self.truth.sizes[party]
        return weight * self.truth.delta(party, server_round).double().numpy()

    def closeness(self, found: np.ndarray, party: int) -> float:
        """Return how far an attacker's guess is from the update of round 1, relative to it."""
        wanted = torch.from_numpy(self.update(party, 1))[: LAYOUT.num_trainable]
        guess = torch.from_numpy(found)[: LAYOUT.num_trainable]
        return float((guess - wanted).norm() / wanted.norm())


def refusals(replies: Mapping[int, Mapping[str, Mapping[str, object]]], stage: str) -> list[str]:
    """Return why clients refused a stage."""
    found = [stages.get(stage, {}).get(REFUSED) for stages in replies.values()]
    return [str(reason) for reason in found if reason is not None]
