"""A federation that pulls a small model towards one target, for strategies that are not ours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict

from fedguard.grids.base import LocalGrid

TARGET = {"weight": np.linspace(-1.0, 1.0, 6).reshape(2, 3), "bias": np.array([0.5, -0.5])}
CLIENTS = 10

Lie = Callable[[Message, dict[str, np.ndarray]], Message]


def first_arrays(dtype: type = np.float32) -> ArrayRecord:
    return ArrayRecord({n: Array(np.zeros(v.shape, dtype)) for n, v in TARGET.items()})


def distance(arrays: ArrayRecord) -> float:
    """Return how far a model is from what the honest clients pull towards; infinite for NaN."""
    gaps = [np.abs(arrays[name].numpy() - value).max() for name, value in TARGET.items()]
    found = float(np.max(gaps))
    return found if np.isfinite(found) else np.inf


class PullingGrid(LocalGrid):
    """Each client goes half of the way to its own target, which lies near the common one.

    `lies` maps a client to what it answers instead of its honest reply.
    """

    def __init__(self, lies: dict[int, Lie] | None = None, first_node: int = 0) -> None:
        super().__init__()
        self.lies = lies or {}
        self.first_node = first_node
        self.asked: list[tuple[str, int]] = []

    def get_node_ids(self):
        return [self.first_node + client for client in range(CLIENTS)]

    def send_and_receive(self, messages, *, timeout=None):
        return [reply for message in messages for reply in self._answers(message)]

    def _answers(self, message):
        client = message.metadata.dst_node_id - self.first_node
        self.asked.append((message.metadata.message_type, client))
        sent = next(iter(message.content.array_records.values()))
        if message.metadata.message_type == "evaluate":
            metrics = MetricRecord({"num-examples": 10 + client, "distance": distance(sent)})
            return [Message(RecordDict({"metrics": metrics}), reply_to=message)]
        rng = np.random.default_rng(client)
        model = {}
        for name, array in sent.items():
            start = array.numpy()
            own = TARGET[name] + 0.02 * rng.standard_normal(start.shape)
            model[name] = (start + 0.5 * (own - start)).astype(start.dtype)
        answer = self.lies[client](message, model) if client in self.lies else None
        if answer is None:
            answer = reply(message, model, 10 + client, 0.3 + 0.01 * client)
        return answer if isinstance(answer, list) else [answer]


def reply(message, model, examples=10, loss=0.3, **metrics) -> Message:
    arrays = ArrayRecord({name: Array(np.asarray(value)) for name, value in model.items()})
    told = MetricRecord({"num-examples": examples, "train_loss": loss, **metrics})
    return Message(RecordDict({"arrays": arrays, "metrics": told}), reply_to=message)


def scaled(factor: float) -> Lie:
    """Return a lie: the opposite of the honest update, many times over."""

    def lie(message, model):
        start = message.content["arrays"]
        far = {n: start[n].numpy() - factor * (v - start[n].numpy()) for n, v in model.items()}
        return reply(message, far)

    return lie


def failing(message, model) -> Message:
    return Message(Error(1, "my disk is full"), reply_to=message)


def without_bias(message, model) -> Message:
    return reply(message, {"weight": model["weight"]})


def misshapen(message, model) -> Message:
    return reply(message, {**model, "bias": np.zeros(5, np.float32)})


def not_a_number(message, model) -> Message:
    return reply(message, {**model, "bias": np.full(2, np.nan, np.float32)})


def absurd_claim(message, model) -> Message:
    return reply(message, model, examples=10**15)


def other_metrics(message, model) -> Message:
    arrays = ArrayRecord({name: Array(value) for name, value in model.items()})
    told = MetricRecord({"num-examples": 10, "mood": 3.0})
    return Message(RecordDict({"arrays": arrays, "metrics": told}), reply_to=message)


def nan_loss(message, model) -> Message:
    return reply(message, model, loss=float("nan"))


def negative_loss(message, model) -> Message:
    return reply(message, model, loss=-5.0)


def twice(message, model) -> list[Message]:
    return [reply(message, model), reply(message, {n: v + 100.0 for n, v in model.items()})]
