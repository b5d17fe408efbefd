from __future__ import annotations

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from fedguard.attacks import Attack
from fedguard.config import parse
from fedguard.grids.adversarial import AdversarialGrid
from fedguard.grids.base import WrappedGrid
from fedguard.grids.inprocess import InProcessGrid
from fedguard.runs.simulation import Simulation
from fedguard.updates import ClientUpdates

LIARS = {1, 4}


class Spy(Attack):
    """Sends its row number and remembers what it saw."""

    needs = frozenset({"updates"})

    def craft(self, coalition, knowledge):
        self.coalition = coalition
        self.knowledge = knowledge
        rows = torch.arange(len(coalition), dtype=torch.float32) + 1
        return rows[:, None].expand(-1, coalition.layout.size).clone()


class PlainMessages(WrappedGrid):
    """Hands replies on without their matrix, as a remote grid does."""

    def send_and_receive(self, messages, *, timeout=None):
        replies = list(self.inner.send_and_receive(messages, timeout=timeout))
        for reply in replies:
            assert reply.content
        return replies


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return Simulation(parse({"clients": 6, "attack": "none", "partition": "iid"}))


def instructions(simulation: Simulation, server_round: int = 1) -> list[Message]:
    record = RecordDict(
        {
            "arrays": ArrayRecord(simulation.server_model.module.state_dict()),
            "config": ConfigRecord({"server-round": server_round}),
        }
    )
    return [Message(record, dst_node_id=node, message_type="train") for node in range(6)]


def updates_of(simulation: Simulation, replies) -> ClientUpdates:
    layout = simulation.trainer.layout
    state = simulation.server_model.module.state_dict()
    return ClientUpdates.from_replies(replies, layout.flatten(state), layout)


@pytest.mark.parametrize("wrap", [lambda grid: grid, PlainMessages], ids=["stacked", "messages"])
@pytest.mark.parametrize("scope", ["partial", "full"])
def test_the_coalition_rewrites_its_own_replies_only(simulation, wrap, scope):
    inner = wrap(InProcessGrid(simulation.trainer))
    honest = updates_of(simulation, inner.send_and_receive(instructions(simulation)))
    honest_deltas = honest.deltas.clone()
    spy = Spy()
    grid = AdversarialGrid(inner, spy, LIARS, 0, scope=scope)
    updates = updates_of(simulation, grid.send_and_receive(instructions(simulation)))
    assert updates.node_ids == tuple(range(6))
    for node in range(6):
        if node not in LIARS:
            torch.testing.assert_close(updates.deltas[node], honest_deltas[node])
    for place, node in enumerate(sorted(LIARS)):
        expected = torch.full_like(updates.deltas[node], place + 1.0)
        torch.testing.assert_close(updates.deltas[node], expected)
    assert spy.coalition.node_ids == tuple(sorted(LIARS))
    seen = spy.knowledge.updates.node_ids
    assert seen == (tuple(range(6)) if scope == "full" else tuple(sorted(LIARS)))
    assert (spy.knowledge.cohort_size, spy.knowledge.num_malicious) == (6, 2)


def test_the_attacker_learns_what_the_server_added_last(simulation):
    spy = Spy()
    grid = AdversarialGrid(InProcessGrid(simulation.trainer), spy, LIARS, 0)
    grid.send_and_receive(instructions(simulation, 1))
    assert spy.knowledge.last_update is None
    grid.send_and_receive(instructions(simulation, 2))
    assert float(spy.knowledge.last_update.abs().max()) == 0.0


def test_when_it_does_not_attack_nothing_changes(simulation):
    grid = InProcessGrid(simulation.trainer)
    quiet = AdversarialGrid(grid, Spy(), LIARS, 0, attacking=lambda server_round: False)
    honest = grid.send_and_receive(instructions(simulation)).deltas
    assert torch.equal(quiet.send_and_receive(instructions(simulation)).deltas, honest)


def test_a_round_without_liars_is_left_alone(simulation):
    grid = AdversarialGrid(InProcessGrid(simulation.trainer), Spy(), {99}, 0)
    replies = grid.send_and_receive(instructions(simulation))
    assert len(list(replies)) == 6
