from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from flwr.app import Error, Message, MetricRecord, RecordDict
from safetensors.torch import load_file

from fedguard.config import parse
from fedguard.errors import RunError
from fedguard.grids.base import LocalGrid
from fedguard.grids.flower import FlowerGrid
from fedguard.records.writer import read_jsonl
from fedguard.runs.simulation import Simulation


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
    grid = FlowerGrid(Nodes({900: 1, 700: None, 800: 1, 600: -5}), patience=0.0)
    assert list(grid.get_node_ids()) == [1, 700, 800, 600]


def test_what_a_simulated_client_said_is_told_without_the_tracebacks_around_it():
    from fedguard.grids.flower import _said_by_client

    wrapped = (
        "<class 'ray.exceptions.RayTaskError(ClientAppException)'>:<'ray::ClientAppActor.run()\n"
        '  File "ray_actor.py", line 65, in run\n'
        "flwr.clientapp.client_app.ClientAppException: \nException ClientAppException occurred. "
        "Message: no reply within\n30 s (round_timeout)'>"
    )
    assert _said_by_client(wrapped) == "no reply within 30 s (round_timeout)"
    assert _said_by_client("no such handler") == "no such handler"


def test_errors_come_back_under_the_clients_id():
    grid = FlowerGrid(Nodes({700: None, 900: 3}))
    list(grid.get_node_ids())
    (reply,) = grid.send_and_receive([Message(RecordDict(), dst_node_id=700, message_type="train")])
    assert reply.has_error()
    assert reply.metadata.src_node_id == 700


@pytest.fixture
def cluster_that_is_gone(monkeypatch):
    """Ray's note of the cluster started last on this machine, which nobody took away."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as place:
        (Path(place) / "ray_current_cluster").write_text("127.0.0.1:1")
        monkeypatch.setenv("RAY_TMPDIR", place)
        monkeypatch.delenv("RAY_ADDRESS")
        yield


def test_flowers_runtime_gives_the_model_of_the_inprocess_engine(tmp_path, cluster_that_is_gone):
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


class Network(Nodes):
    """Nodes that come and go."""

    def __init__(self, partitions: dict[int, int | None]) -> None:
        super().__init__(partitions)
        self.online = set(partitions)
        self.asked: list[int] = []
        self.ttls: list[float] = []

    def get_node_ids(self):
        return sorted(self.online)

    def send_and_receive(self, messages, *, timeout=None):
        listed = list(messages)
        self.asked += [m.metadata.dst_node_id for m in listed]
        self.ttls += [m.metadata.ttl for m in listed]
        return super().send_and_receive(
            [m for m in listed if m.metadata.dst_node_id in self.online], timeout=timeout
        )


def ask(grid: FlowerGrid, client: int, timeout: float = 60.0) -> Message:
    message = Message(RecordDict(), dst_node_id=client, message_type="train")
    (reply,) = grid.send_and_receive([message], timeout=timeout)
    return reply


def test_with_a_known_number_of_clients_the_missing_are_answered_for():
    network = Network({900: 0, 800: 2})
    grid = FlowerGrid(network, patience=0.0, clients=3)
    assert list(grid.get_node_ids()) == [0, 1, 2]
    assert not ask(grid, 2).has_error()
    network.asked.clear()
    reply = ask(grid, 1)
    assert reply.error.reason == "not connected"
    assert reply.metadata.src_node_id == 1
    assert network.asked == []


def test_a_client_that_goes_comes_back_and_joins_late():
    network = Network({900: 0, 800: 1})
    grid = FlowerGrid(network, patience=0.0, clients=3)
    list(grid.get_node_ids())
    network.online.remove(800)
    assert ask(grid, 1).has_error()
    # Back with another node id; meanwhile partition 2 has come too.
    network.partitions |= {700: 1, 600: 2}
    network.online |= {700, 600}
    assert list(grid.get_node_ids()) == [0, 1, 2]
    assert not ask(grid, 1).has_error()
    assert not ask(grid, 2).has_error()
    assert network.asked[-2:] == [700, 600]


def test_the_place_of_a_connected_node_is_not_given_away():
    network = Network({700: 0, 800: 0, 900: 7, 950: None})
    grid = FlowerGrid(network, patience=0.0, clients=2)
    assert list(grid.get_node_ids()) == [0, 1]
    ask(grid, 0)
    assert network.asked[-1] == 700
    network.online.remove(700)
    list(grid.get_node_ids())
    ask(grid, 0)
    assert network.asked[-1] == 800


class Stumbling(Network):
    """Nodes whose ClientApp fails the first times that it is asked, as on a machine too slow."""

    def __init__(self, partitions: dict[int, int | None], failures: dict[int, int]) -> None:
        super().__init__(partitions)
        self.failures = failures

    def send_and_receive(self, messages, *, timeout=None):
        for message in messages:
            node = message.metadata.dst_node_id
            self.asked.append(node)
            if self.failures.get(node, 0) > 0:
                self.failures[node] -= 1
                yield Message(Error(2, "the client took too long to start"), reply_to=message)
            else:
                yield from super().send_and_receive([message], timeout=timeout)


def test_a_node_that_fails_its_introduction_is_asked_again_and_misses_nothing(monkeypatch):
    monkeypatch.setattr("fedguard.grids.flower._POLL", 0.01)
    network = Stumbling({900: 0, 800: 1, 700: 2}, {800: 2, 700: 1})
    grid = FlowerGrid(network, patience=60.0, clients=3)
    assert list(grid.get_node_ids()) == [0, 1, 2]
    assert not any(ask(grid, client).has_error() for client in range(3))


def test_a_node_that_answers_only_after_the_start_takes_part_from_the_next_round(monkeypatch):
    monkeypatch.setattr("fedguard.grids.flower._POLL", 0.01)
    network = Stumbling({900: 0, 800: 1}, {800: 10**9})
    grid = FlowerGrid(network, patience=0.1, clients=2)
    list(grid.get_node_ids())
    assert ask(grid, 1).error.reason == "not connected"
    # Its patience is used up, but a node that goes and comes back is asked anew.
    network.online.remove(800)
    list(grid.get_node_ids())
    network.online.add(800)
    network.failures.clear()
    list(grid.get_node_ids())
    assert not ask(grid, 1).has_error()


def test_a_node_that_joins_late_and_stumbles_is_not_lost():
    network = Stumbling({900: 0}, {800: 1})
    grid = FlowerGrid(network, patience=60.0, clients=2)
    grid._gathered = True
    network.partitions[800] = 1
    network.online.add(800)
    list(grid.get_node_ids())
    assert ask(grid, 1).has_error()
    list(grid.get_node_ids())
    assert not ask(grid, 1).has_error()


def test_a_federation_that_only_fails_says_what_its_nodes_said(monkeypatch):
    monkeypatch.setattr("fedguard.grids.flower._POLL", 0.01)
    grid = FlowerGrid(Stumbling({900: 0}, {900: 10**9}), patience=0.05, clients=1)
    with pytest.raises(RunError, match=r"1 are connected, .* took too long to start.*30 s"):
        grid.get_node_ids()


def test_nobody_at_all_ends_the_run_with_a_line():
    with pytest.raises(RunError, match="no SuperNode of this federation answered within 0 s"):
        FlowerGrid(Network({}), patience=0.0, clients=2).get_node_ids()


def test_instructions_expire_when_the_server_stops_waiting():
    network = Network({900: 0})
    grid = FlowerGrid(network, patience=0.0, clients=1)
    list(grid.get_node_ids())
    ask(grid, 0, timeout=30.0)
    assert network.ttls[-1] <= 32.0


def test_the_nodes_say_how_many_they_are():
    class Sized(Nodes):
        def send_and_receive(self, messages, *, timeout=None):
            for message in messages:
                record = MetricRecord({"partition-id": 0, "num-partitions": 9})
                yield Message(RecordDict({"metrics": record}), reply_to=message)

    assert FlowerGrid(Sized({5: 0}), patience=0.0).federation_size() == 9
    assert FlowerGrid(Nodes({5: 0}), patience=0.0).federation_size() is None


def test_our_arrays_travel_over_a_superlink_as_flowers_own():
    import numpy as np
    from flwr.app import ArrayRecord
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
    from flwr.supercore.inflatable.inflatable_utils import (
        inflate_object_from_contents,
        validate_object_content,
    )

    from fedguard.updates import TensorArray

    values = {"w": np.arange(6.0).reshape(2, 3), "n": np.array(3)}
    record = ArrayRecord({name: TensorArray(value) for name, value in values.items()})
    contents = {key: found.deflate() for key, found in get_all_nested_objects(record).items()}
    for content in contents.values():
        validate_object_content(content)
    back = inflate_object_from_contents(record.object_id, contents)
    for name, value in values.items():
        np.testing.assert_array_equal(back[name].numpy(), value)
