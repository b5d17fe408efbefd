"""The grid of an audit: what malicious clients do there is theirs, and no fault of the grid's."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedguard import registry
from fedguard.auditing.field import Field
from fedguard.auditing.threats import BY_NAME
from fedguard.grids.base import LocalGrid


class Clients(LocalGrid):
    """Four clients that add their number to the model, whose replies are changed at will."""

    def __init__(self, change=lambda content: content) -> None:
        super().__init__()
        self.change = change

    def get_node_ids(self):
        return range(4)

    def send_and_receive(self, messages, *, timeout=None):
        return [Message(self._content(m), reply_to=m) for m in messages]

    def _content(self, message):
        own = message.metadata.dst_node_id
        told = {"num-examples": 10, "loss": 0.5}
        if message.metadata.message_type == "evaluate":
            return RecordDict({"metrics": MetricRecord(told)})
        start = message.content["arrays"]["w"].numpy()
        arrays = ArrayRecord({"w": Array(start + 1.0 + own)})
        return self.change(RecordDict({"arrays": arrays, "metrics": MetricRecord(told)}))


def field(threat: str, inner: LocalGrid | None = None) -> Field:
    found = BY_NAME[threat]
    attack = (
        registry.create("attack", found.attack, **dict(found.arguments)) if found.attack else None
    )
    return Field(inner or Clients(), found, attack, [1], seed=0)


def asked(grid: Field, value: float = 0.0, kind: str = "train") -> list[Message]:
    arrays = ArrayRecord({"w": Array(np.full(3, value))})
    content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": 1})})
    messages = [Message(content, dst_node_id=n, message_type=kind) for n in range(4)]
    return list(grid.send_and_receive(messages))


def models(replies) -> list[float]:
    return [float(reply.content["arrays"]["w"].numpy()[0]) for reply in replies]


def test_a_stale_client_sends_its_own_first_update_whatever_the_server_did_to_it():
    grid = field("stale")
    first = asked(grid)
    assert models(first) == [1.0, 2.0, 3.0, 4.0]
    first[1].content["arrays"] = ArrayRecord({"w": Array(np.full(3, 99.0))})  # as a rule would
    assert models(asked(grid, 10.0)) == [11.0, 2.0, 13.0, 14.0]


def test_five_replies_are_five_and_not_one_five_times():
    replies = asked(field("duplicate"))
    mine = [reply for reply in replies if reply.metadata.src_node_id == 1]
    assert len(mine) == 5
    for reply in mine:
        del reply.content["arrays"]  # as strategies do that read a reply apart


def test_what_honest_clients_send_beside_a_model_is_no_fault_of_the_servers():
    def two(content):
        content["control"] = ArrayRecord({"c": Array(np.zeros(2))})
        return content

    grid = field("sign flip x10", Clients(two))
    assert models(asked(grid)) == [1.0, 2.0, 3.0, 4.0]  # no update of the model that was sent
    assert grid.applied == 0
    plain = field("sign flip x10")
    assert models(asked(plain)) == [1.0, -20.0, 3.0, 4.0]
    assert plain.applied == 1


def test_what_cannot_be_spoilt_is_not_counted():
    def bare(content):
        return RecordDict({"metrics": MetricRecord({"loss": 0.5})})

    for threat in ("wrong shape", "missing array", "garbled bytes", "examples NaN"):
        grid = field(threat, Clients(bare))
        assert len(asked(grid)) == 4
        assert grid.applied == 0, threat
    grid = field("examples NaN")
    assert np.isnan(asked(grid)[1].content["metrics"]["num-examples"])
    assert grid.applied == 1


def test_lies_about_metrics_are_told_of_evaluations_as_well():
    grid = field("other metrics")
    for kind in ("train", "evaluate"):
        told = [set(reply.content["metrics"]) for reply in asked(grid, kind=kind)]
        assert told == [
            {"num-examples", "loss"} | ({"unheard-of"} if n == 1 else set()) for n in range(4)
        ]
    assert field("wrong shape").threat.reports is False
