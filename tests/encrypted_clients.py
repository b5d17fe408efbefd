"""A grid whose clients have fixed updates, and one that loses replies."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedguard.encryption.local_clients import LocalClients
from fedguard.encryption.protocol.records import stages_of
from fedguard.grids.base import LocalGrid, WrappedGrid
from fedguard.grids.messages import arrays_of, model_reply_content
from fedguard.updates import ClientUpdates, ParameterLayout

LAYOUT = ParameterLayout(
    names=("weight", "bias", "num_batches_tracked"),
    shapes=((40, 10), (40,), (1,)),
    dtypes=("float32", "float32", "int64"),
    num_trainable_tensors=2,
    record_names=("weight", "bias", "num_batches_tracked"),
)


def first_model() -> ArrayRecord:
    """Return the model that every test starts from."""
    vector = torch.randn(LAYOUT.size, generator=torch.Generator().manual_seed(0))
    vector[-1] = 7.0
    return LAYOUT.to_arrays(vector)


class FixedClients(LocalGrid):
    """Clients 0 to K - 1 whose delta of a round depends on client and round alone."""

    def __init__(self, clients: int, sizes: list[int] | None = None) -> None:
        super().__init__()
        self.clients = clients
        self.sizes = sizes or [60 + 7 * party for party in range(clients)]
        self.trained: list[int] = []
        self.override: dict[int, torch.Tensor] = {}

    def get_node_ids(self) -> Iterable[int]:
        return range(self.clients)

    def delta(self, party: int, server_round: int) -> torch.Tensor:
        rng = np.random.default_rng([party, server_round])
        delta = torch.from_numpy(rng.normal(0, 0.1, LAYOUT.size)).to(torch.float32)
        delta[-1] = 300.0
        return self.override.get(party, delta)

    def mean(self, server_round: int, parties: Iterable[int] | None = None) -> torch.Tensor:
        chosen = list(range(self.clients) if parties is None else parties)
        weights = torch.tensor([float(self.sizes[p]) for p in chosen], dtype=torch.float64)
        rows = torch.stack([self.delta(p, server_round) for p in chosen]).to(torch.float64)
        return weights @ rows / weights.sum()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        replies = []
        for message in messages:
            party = message.metadata.dst_node_id
            self.trained.append(party)
            server_round = message.content.config_records["config"]["server-round"]
            vector = LAYOUT.vector_from_arrays(arrays_of(message))
            model = vector + self.delta(party, server_round)
            content = model_reply_content(LAYOUT, model, {"num-examples": self.sizes[party]})
            replies.append(Message(content, reply_to=message))
        return replies


class Losing(WrappedGrid):
    """Loses the replies for which ``lost(trip, party, stages)`` is true."""

    def __init__(self, inner, lost: Callable[[int, int, set[str]], bool]) -> None:
        super().__init__(inner)
        self.lost = lost
        self.trip = -1
        self.seen: list[set[str]] = []

    def send_and_receive(self, messages, *, timeout=None):
        instructions = list(messages)
        self.trip += 1
        stages = {m.metadata.dst_node_id: set(stages_of(m.content)) for m in instructions}
        self.seen.append(set().union(*stages.values()))
        return [
            reply
            for reply in self.inner.send_and_receive(instructions, timeout=timeout)
            if not self.lost(
                self.trip, reply.metadata.src_node_id, stages[reply.metadata.src_node_id]
            )
        ]


class Run:
    """A strategy on fixed clients, one round at a time."""

    def __init__(self, strategy, clients: int = 5, lost=lambda *_: False, sizes=None) -> None:
        self.strategy = strategy
        self.inner = FixedClients(clients, sizes)
        self.grid = Losing(LocalClients(self.inner, strategy.client_options), lost)
        self.arrays = first_model()
        self.seen: list[tuple[ClientUpdates, object]] = []
        strategy.observers.append(lambda _, updates, verdict: self.seen.append((updates, verdict)))
        self.metrics = MetricRecord()

    def round(self, server_round: int) -> torch.Tensor:
        """Run one round and return what was added to the model, in float64."""
        before = LAYOUT.vector_from_arrays(self.arrays).to(torch.float64)
        messages = self.strategy.configure_train(
            server_round, self.arrays, ConfigRecord(), self.grid
        )
        replies = self.grid.send_and_receive(messages)
        arrays, metrics = self.strategy.aggregate_train(server_round, replies)
        self.arrays, self.metrics = arrays, metrics
        return LAYOUT.vector_from_arrays(arrays).to(torch.float64) - before


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Return the largest difference on the trainable part."""
    trainable = LAYOUT.num_trainable
    return float((found[:trainable] - wanted[:trainable]).abs().max())


def small(clients: int) -> dict[str, object]:
    """Return Flower's arguments for a federation in which everybody is asked."""
    return {
        "fraction_train": 1.0,
        "min_train_nodes": clients,
        "min_available_nodes": clients,
        "min_evaluate_nodes": 0,
    }


def empty() -> RecordDict:
    """Return a message without any record."""
    return RecordDict()
