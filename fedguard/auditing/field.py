"""`Field`: the grid on which somebody's app is attacked, and where its figures are taken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from flwr.app import ConfigRecord, Error, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fedguard.attacks.base import Attack, Knowledge
from fedguard.auditing.hook import DataHook
from fedguard.auditing.threats import Threat, claim_key
from fedguard.grids.base import WrappedGrid
from fedguard.grids.foreign_app import copy_of
from fedguard.grids.messages import ARRAYS_KEY, CONFIG_KEY
from fedguard.grids.opened import claims_of, model_of, put_model, round_of, trains
from fedguard.layout import ParameterLayout
from fedguard.randomness import SERVER, generator
from fedguard.updates import ClientUpdates

TIME_TO_LIVE = 43200.0
"""Seconds that Flower waits for a reply where a server names no timeout."""

EVALUATED = 20
"""Most clients that evaluate a model."""

_COPIES = 5
_FAILED = 1


class Stopped(BaseException):
    """The model that a server sends is not finite: what comes after changes nothing."""


class Field(WrappedGrid):
    """A grid around the app's own clients: some attack, and what the server sends is watched.

    Parameters
    ----------
    inner : Grid
        The app's clients.
    threat : Threat or None
        What the malicious clients do; None for peace.
    attack : Attack or None
        The attack that crafts their updates.
    malicious : collection of int
        Who they are.
    seed : int
        Seed of the coalition's stream.
    hook : DataHook or None
        The way to the clients' data.

    Attributes
    ----------
    first, last : RecordDict or None
        The first instruction to train, and the newest.
    waited : float
        Seconds for which a server waited in vain, all rounds together.
    trained : int
        Rounds of training that the server asked for.
    """

    def __init__(
        self,
        inner: Grid,
        threat: Threat | None,
        attack: Attack | None,
        malicious: Iterable[int],
        seed: int,
        hook: DataHook | None = None,
    ) -> None:
        super().__init__(inner)
        self.threat, self.attack = threat, attack
        self.malicious = frozenset(malicious)
        self.seed = seed
        self.hook = hook
        self.first: RecordDict | None = None
        self.last: RecordDict | None = None
        self.to_evaluate: Message | None = None
        self.train_metrics: list[dict[str, float]] = []
        self.failures: list[str] = []
        self.applied = 0
        self.waited = 0.0
        self.trained = 0
        self._stale: dict[int, RecordDict] = {}

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Exchange messages; the malicious clients' replies to training are what they are."""
        instructions = list(messages)
        training = [message for message in instructions if trains(message)]
        if not training:
            return self._others(instructions)
        self.trained += 1
        self.first = self.first or RecordDict(dict(training[0].content))
        self.last = RecordDict(dict(training[0].content))
        self._check_finite(training[0].content)
        reached = [m for m in instructions if self._reached(m)]
        if len(reached) < len(instructions) and self.threat and self.threat.name == "hung":
            self.waited += TIME_TO_LIVE if timeout is None else timeout
        replies = self._answers(reached)
        lost = [m for m in instructions if m not in reached]
        if self.threat is not None and self.threat.name == "dropped":
            self.applied += len(lost)
            lost_words = Error(_FAILED, "the client is gone")
            replies += [Message(lost_words, reply_to=message) for message in lost]
        self.failures += [str(r.error.reason) for r in replies if r.has_error()][:3]
        self._note_metrics(replies)
        return self._attacked(replies, training)

    def _reached(self, message: Message) -> bool:
        gone = self.threat is not None and self.threat.name in ("hung", "dropped")
        if gone and message.metadata.dst_node_id in self.malicious and trains(message):
            self.applied += self.threat is not None and self.threat.name == "hung"
            return False
        return True

    def _answers(self, messages: Sequence[Message]) -> list[Message]:
        """Let the app's clients answer; each is known to the data hook while it does."""
        if self.hook is None:
            return list(self.inner.send_and_receive(messages))
        found: list[Message] = []
        for message in messages:
            liar = message.metadata.dst_node_id in self.malicious
            poison = self.threat.name if self.threat and self.threat.kind == "data" else ""
            self.hook.mode = poison if liar and trains(message) else ""
            found += self.inner.send_and_receive([message])
        self.applied += self.hook.take_applied()
        self.hook.mode = ""
        return found

    def _others(self, instructions: Sequence[Message]) -> list[Message]:
        for message in instructions:
            if str(message.metadata.message_type).startswith(MessageType.EVALUATE):
                self.to_evaluate = message
        replies = self._answers(instructions)
        if self.threat is not None and self.threat.spoil is not None and self.threat.reports:
            for reply in self._mine(replies):
                self.threat.spoil(reply.content)
        return replies

    def _mine(self, replies: Iterable[Message]) -> list[Message]:
        """Return the malicious clients' replies that have a content."""
        mine = [reply for reply in replies if reply.metadata.src_node_id in self.malicious]
        return [reply for reply in mine if reply.has_content()]

    def _check_finite(self, content: RecordDict) -> None:
        for record in content.array_records.values():
            for array in record.values():
                values = array.numpy() if array.data else np.empty(0)
                if values.dtype.kind == "f" and not np.isfinite(values).all():
                    raise Stopped

    def _note_metrics(self, replies: Sequence[Message]) -> None:
        told = [
            claims_of(reply.content)
            for reply in replies
            if reply.has_content() and reply.metadata.src_node_id not in self.malicious
        ]
        self.train_metrics.append(averaged(told))

    def _attacked(self, replies: list[Message], training: Sequence[Message]) -> list[Message]:
        """Return the replies as the malicious clients send them."""
        threat = self.threat
        mine = self._mine(replies)
        if threat is None or not mine:
            return replies
        if self.attack is not None:
            self._craft(replies, mine, training)
        if threat.spoil is not None:
            self.applied += sum(threat.spoil(reply.content) for reply in mine)
        if threat.name == "stale":
            for reply in mine:
                node = reply.metadata.src_node_id
                old = self._stale.setdefault(node, copy_of(reply).content)
                for name, record in old.items():
                    reply.content[name] = record
                self.applied += 1
        if threat.name == "duplicate":
            self.applied += len(mine)
            return replies + [copy_of(reply) for reply in mine for _ in range(_COPIES - 1)]
        return replies

    def _craft(
        self, replies: Sequence[Message], mine: Sequence[Message], training: Sequence[Message]
    ) -> None:
        """Let the attack rewrite the coalition's updates; it sees all that can be read as such."""
        records = list(training[0].content.array_records)
        arrays = model_of(training[0].content, records)
        layout = ParameterLayout.from_arrays(arrays)
        if layout.num_trainable == 0:
            return
        start = layout.vector_from_arrays(arrays)
        rows: dict[int, Tensor] = {}
        for reply in replies:
            if reply.has_content() and reply.metadata.src_node_id not in rows:
                with suppress(ValueError, KeyError):  # it is no update of the model that was sent
                    model = layout.vector_from_arrays(model_of(reply.content, records))
                    rows[reply.metadata.src_node_id] = model - start
        nodes = sorted(rows)
        if not self.malicious.intersection(nodes):
            return
        deltas = torch.stack([rows[node] for node in nodes])
        updates = ClientUpdates.from_matrix(deltas, None, nodes, start, layout)
        own = [row for row, node in enumerate(updates.node_ids) if node in self.malicious]
        if not own or self.attack is None:
            return
        number = round_of(training[0], self.trained)
        coalition = updates.select(own)
        knowledge = Knowledge(
            scope="full",
            updates=updates,
            cohort_size=len(training),
            num_malicious=len(own),
            server_round=number,
            generator=generator(self.seed, number, SERVER, "attack"),
        )
        with torch.no_grad():
            crafted = self.attack.craft(coalition, knowledge)
        sent = {node: start + crafted[row] for row, node in enumerate(coalition.node_ids)}
        for reply in mine:
            if reply.metadata.src_node_id in sent:
                put_model(reply.content, layout, sent[reply.metadata.src_node_id])
                self.applied += 1

    def evaluate(self, content: RecordDict | None, mode: str = "") -> dict[str, float]:
        """Return what the honest clients say of a model; empty where they say nothing.

        Parameters
        ----------
        content : RecordDict or None
            A message of the server's with the model in it.
        mode : str
            How the data hook changes the clients' data meanwhile.
        """
        if content is None or not content.array_records:
            return {}
        template = self.to_evaluate
        older = "fitins.parameters" in content.array_records
        record = next(iter(content.array_records.values()))
        if template is not None:
            body = RecordDict(dict(template.content))
            body[next(iter(template.content.array_records))] = record
        elif older:
            body = RecordDict(
                {"evaluateins.parameters": record, "evaluateins.config": ConfigRecord({})}
            )
        else:
            config = next(iter(content.config_records.values()), ConfigRecord())
            body = RecordDict({ARRAYS_KEY: record, CONFIG_KEY: config})
        honest = [node for node in self.get_node_ids() if node not in self.malicious]
        messages = [
            Message(body, dst_node_id=node, message_type=MessageType.EVALUATE)
            for node in honest[:EVALUATED]
        ]
        if self.hook is not None:
            self.hook.mode = mode
        replies = list(self.inner.send_and_receive(messages[:1]))
        if not any(reply.has_error() for reply in replies):  # else no client can
            replies += self.inner.send_and_receive(messages[1:])
        if self.hook is not None:
            self.hook.mode = ""
        return averaged([_evaluated(reply.content) for reply in replies if reply.has_content()])


def _evaluated(content: RecordDict) -> dict[str, Any]:
    told = dict(claims_of(content))
    older = content.config_records.get("evaluateres.metrics")
    return {**told, **(dict(older) if older is not None else {})}


def averaged(told: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean of each plain number by claimed examples; NaN where one is NaN."""
    sums: dict[str, float] = {}
    weights: dict[str, float] = {}
    for figures in told:
        plain = {
            name: float(value)
            for name, value in figures.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        key = claim_key(plain) if plain else None
        weight = max(plain.pop(key, 1.0), 0.0) if key else 1.0
        for name, value in plain.items():
            sums[name] = sums.get(name, 0.0) + weight * value
            weights[name] = weights.get(name, 0.0) + weight
    return {name: total / weights[name] for name, total in sums.items() if weights[name] > 0.0}
