"""A strategy cannot name the attackers from what a run hands it: its seed and its nodes' ids."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from flwr.app import Message, MessageType, RecordDict

from fedguard.clients.federation import draw_malicious
from fedguard.config import parse
from fedguard.grids.veil import Handles, VeiledGrid
from fedguard.randomness import seed_for
from fedguard.records.writer import read_jsonl
from fedguard.runs.simulation import Simulation
from fedguard.strategies import FedAvg
from fedguard.updates import ClientUpdates, Verdict
from fedguard.vertical.parts import make_vertical_strategy

CLIENTS, FRACTION = 8, 0.25
SMALL = {
    "clients": CLIENTS,
    "malicious": FRACTION,
    "rounds": 1,
    "local_epochs": 1,
    "partition": "iid",
    "server_samples": 0,
    "attack": "sign-flip",
    "check_plugins": False,
}


class Denouncer(FedAvg):
    """Draws the malicious clients again from whatever it knows, and rejects them."""

    seen: ClassVar[list[tuple[int, ...]]] = []

    def combine(self, updates: ClientUpdates) -> Verdict:
        type(self).seen.append(updates.node_ids)
        drawn = draw_malicious(len(updates), FRACTION, self.seed)
        order = sorted(updates.node_ids)
        named = drawn | {order[place] for place in drawn}
        named |= {Handles(self.seed).of(client) for client in drawn}  # were its seed the run's
        weights = torch.tensor([float(node not in named) for node in updates.node_ids])
        reasons = {node: f"drawn {node}" for node in updates.node_ids if node in named}
        return Verdict(torch.zeros(updates.layout.size), weights / weights.sum(), {}, reasons)


@pytest.fixture(autouse=True)
def fresh():
    Denouncer.seen = []


def run(out, seed: int, **values) -> list[dict]:
    config = parse({**SMALL, "strategy": f"{__name__}:Denouncer", "seed": seed, **values})
    Simulation(config).run(out)
    return read_jsonl(out / "clients.jsonl")


def test_a_strategy_that_draws_the_attackers_from_its_seed_does_no_better_than_chance(tmp_path):
    hits = named = 0
    for seed in range(12):
        records = run(tmp_path / str(seed), seed)
        assert sum(record["malicious"] for record in records) == 2
        assert {r["client"] for r in records if r["malicious"]} == draw_malicious(8, 0.25, seed)
        named += sum(not record["accepted"] for record in records)
        hits += sum(record["malicious"] and not record["accepted"] for record in records)
    assert named == 24  # it names somebody, so it would have named them
    assert hits <= 12  # 6 expected by chance, 2.1 standard deviation; 24 with the run's own seed


def test_node_ids_are_opaque_and_last_over_rounds_and_resume(tmp_path):
    records = run(tmp_path, 3, rounds=2)
    Simulation(parse({**SMALL, "strategy": f"{__name__}:Denouncer", "seed": 3, "rounds": 3})).run(
        tmp_path, resume=True
    )
    first, second, resumed = Denouncer.seen
    assert first == second == resumed
    assert len(set(first)) == CLIENTS
    assert min(first) > 2**40
    assert {record["client"] for record in records} == set(range(CLIENTS))


def test_records_say_of_every_client_what_the_strategy_said_of_its_handle(tmp_path):
    records = run(tmp_path, 5)
    handles = Handles(5)
    rejected = [record for record in records if not record["accepted"]]
    assert len(rejected) == 2
    for record in rejected:
        assert record["reason"] == f"drawn {handles.of(record['client'])}"
    assert [record["client"] for record in records] == list(range(CLIENTS))


def test_the_order_of_rows_is_that_of_handles_not_of_clients(tmp_path):
    run(tmp_path, 0)
    handles = Handles(0)
    places = [handles.of(client) for client in range(CLIENTS)]
    assert list(Denouncer.seen[0]) == sorted(places) != places


def test_a_vertical_strategy_gets_a_seed_of_its_own_too():
    config = parse({"strategy": "vfl", "dataset": "digits", "clients": 4, "seed": 9})
    assert make_vertical_strategy(config).seed == seed_for(9, "strategy") != 9


class Answering:
    """Clients 0 to 2 that say who was asked; what is pushed is answered when it is pulled."""

    def __init__(self):
        self.asked, self.kept = [], {}

    def get_node_ids(self):
        return range(3)

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        self.asked = [message.metadata.dst_node_id for message in messages]
        return [Message(RecordDict(), reply_to=message) for message in messages]

    def push_messages(self, messages):
        replies = {str(at): r for at, r in enumerate(self.send_and_receive(messages))}
        self.kept.update(replies)
        return list(replies)

    def pull_messages(self, message_ids):
        return [self.kept.pop(name) for name in message_ids]


@pytest.mark.parametrize("pushed", [False, True])
def test_messages_are_readdressed_by_copies_on_the_way_in_and_out(pushed):
    inner, handles = Answering(), Handles(1)
    grid = VeiledGrid(inner, handles)
    nodes = list(grid.get_node_ids())
    sent = [
        Message(RecordDict(), dst_node_id=node, message_type=MessageType.TRAIN) for node in nodes
    ]
    if pushed:
        replies = list(grid.pull_messages(grid.push_messages(sent)))
    else:
        replies = list(grid.send_and_receive(sent))
    assert sorted(inner.asked) == [0, 1, 2]
    assert [handles.client(node) for node in nodes] == inner.asked
    assert [reply.metadata.src_node_id for reply in replies] == nodes
    assert [message.metadata.dst_node_id for message in sent] == nodes
