"""Memories travel from nodes to the server and back, bit for bit."""

from __future__ import annotations

import pytest
import torch
from flwr.app import Context, Error, Message, RecordDict

from fedguard.config import parse
from fedguard.errors import RunError
from fedguard.grids.base import LocalGrid
from fedguard.grids.foreign_app import ClientAppGrid
from fedguard.grids.identity import assume_server_identity
from fedguard.nodes.app import make_client_app
from fedguard.nodes.memory import (
    FETCH,
    MEMORY,
    NodeMemories,
    answer_memory,
    memory_of,
    memory_record,
)

MEMORIES = {
    0: {"adam.m": torch.tensor([1.0, -0.0, 1e-38]), "adam.steps": torch.tensor([3.0])},
    2: {"adam.m": torch.tensor([2.0, 0.1, 7.0]), "adam.steps": torch.tensor([5.0])},
}


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name]) and value.dtype == other[name].dtype
        for name, value in one.items()
    )


def nodes(**values) -> ClientAppGrid:
    config = parse({"clients": 4, "engine": "flower", **values})
    return ClientAppGrid(make_client_app(config.model_dump_json()), 4, {})


def test_a_memory_is_the_same_after_its_way_through_a_record():
    for memory in MEMORIES.values():
        assert same(memory_of(memory_record(memory)), memory)
    assert memory_of(memory_record({})) == {}


def test_a_memory_from_a_record_can_be_written_to():
    record = memory_record(MEMORIES[0])
    memory_of(record)["adam.m"].zero_()
    assert same(memory_of(record), MEMORIES[0])


def test_nodes_keep_what_is_handed_back_and_tell_it_when_asked():
    grid = nodes()
    memories = NodeMemories(grid)
    assert memories.fetch(range(4)) == {}
    memories.hand_back(MEMORIES)
    found = memories.fetch([0, 1, 2])
    assert set(found) == {0, 2}
    assert all(same(found[client], MEMORIES[client]) for client in found)
    assert set(memories.fetch([2, 3])) == {2}
    assert [MEMORY in context.state for context in grid.contexts] == [True, False, True, False]


def test_a_later_memory_takes_the_place_of_the_earlier():
    memories = NodeMemories(nodes())
    memories.hand_back({1: MEMORIES[0]})
    memories.hand_back({1: MEMORIES[2]})
    assert same(memories.fetch([1])[1], MEMORIES[2])


def test_asking_changes_nothing_on_a_node():
    assume_server_identity()
    context = Context(1, 1, {}, RecordDict({MEMORY: memory_record(MEMORIES[0])}), {})
    question = Message(RecordDict(), dst_node_id=1, message_type=FETCH)
    answer = answer_memory(question, context)
    assert same(memory_of(answer.content[MEMORY]), MEMORIES[0])
    assert same(memory_of(context.state[MEMORY]), MEMORIES[0])


def test_a_real_node_keeps_its_memory_to_itself():
    grid = ClientAppGrid(make_client_app(), 4, {"clients": 4})
    memories = NodeMemories(grid)
    with pytest.raises(RunError, match=r"clients \[0, 2\] did not take back"):
        memories.hand_back(MEMORIES)
    assert memories.fetch(range(4)) == {}
    assert not any(MEMORY in context.state for context in grid.contexts)


class Counting(LocalGrid):
    """Every node fails; counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def get_node_ids(self):
        return [0, 1]

    def send_and_receive(self, messages, *, timeout=None):
        self.calls += 1
        return [Message(Error(1, "gone"), reply_to=message) for message in messages]


@pytest.mark.parametrize(("clients", "calls"), [([], 0), ([0, 1], 1)])
def test_nodes_that_fail_are_left_out_and_nobody_is_asked_for_nothing(clients, calls):
    grid = Counting()
    assert NodeMemories(grid).fetch(clients) == {}
    assert grid.calls == calls
