from __future__ import annotations

import pytest
import torch
from flwr.app import Error, Message, MetricRecord, RecordDict
from safetensors.torch import load_file

from fedguard.config import parse
from fedguard.grids.base import LocalGrid
from fedguard.grids.flower import FlowerGrid
from fedguard.reporting.recorder import read_jsonl
from fedguard.simulation import Simulation


class Nodes(LocalGrid):
    """Nodes with large ids; each says which partition it holds, if it says anything."""

    def __init__(self, partitions: dict[int, int | None]) -> None:
        super().__init__()
        self.partitions = partitions
        self.questions = 0

    def get_node_ids(self):
        return list(self.partitions)

    def send_and_receive(self, messages, *, timeout=None):
        for message in messages:
            self.questions += message.metadata.message_type == "query"
            claim = self.partitions[message.metadata.dst_node_id]
            if claim is None:
                yield Message(Error(1, "no such handler"), reply_to=message)
            else:
                content = RecordDict({"metrics": MetricRecord({"partition-id": claim})})
                yield Message(content, reply_to=message)


def test_nodes_appear_under_their_partition():
    inner = Nodes({900: 1, 700: 0, 800: 2})
    grid = FlowerGrid(inner)
    assert list(grid.get_node_ids()) == [1, 0, 2]
    assert list(grid.get_node_ids()) == [1, 0, 2]
    assert inner.questions == 3
    message = Message(RecordDict(), dst_node_id=2, message_type="train")
    (reply,) = grid.send_and_receive([message])
    assert reply.metadata.src_node_id == 2
    assert reply.content["metrics"]["partition-id"] == 2


def test_strangers_and_impostors_keep_their_own_id():
    grid = FlowerGrid(Nodes({900: 1, 700: None, 800: 1, 600: -5}))
    assert list(grid.get_node_ids()) == [1, 700, 800, 600]


def test_errors_come_back_under_the_clients_id():
    grid = FlowerGrid(Nodes({700: None, 900: 3}))
    list(grid.get_node_ids())
    (reply,) = grid.send_and_receive([Message(RecordDict(), dst_node_id=700, message_type="train")])
    assert reply.has_error()
    assert reply.metadata.src_node_id == 700


def test_flowers_runtime_gives_the_model_of_the_inprocess_engine(tmp_path):
    values = {
        "strategy": "geminiguard",
        "clients": 6,
        "malicious": 0.34,
        "fraction": 0.67,
        "rounds": 2,
        "local_epochs": 1,
        "partition": "iid",
    }
    summaries = {}
    for engine in ("inprocess", "flower"):
        config = parse({**values, "engine": engine})
        summaries[engine] = Simulation(config).run(tmp_path / engine)
    ours, theirs = (load_file(tmp_path / e / "model.safetensors") for e in summaries)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=1e-5, rtol=0)
    for name in ("client", "accepted", "malicious", "reason"):
        here, there = (
            [record[name] for record in read_jsonl(tmp_path / e / "clients.jsonl")]
            for e in summaries
        )
        assert here == there
    assert summaries["flower"]["engine"] == "flower"
    assert summaries["flower"]["final"]["accuracy"] == pytest.approx(
        summaries["inprocess"]["final"]["accuracy"], abs=0.005
    )
