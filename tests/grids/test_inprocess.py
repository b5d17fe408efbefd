from __future__ import annotations

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from torch import nn
from torch.nn import functional

from fedguard.config import parse
from fedguard.grids.inprocess import InProcessGrid
from fedguard.randomness import generator
from fedguard.runs.simulation import Simulation
from fedguard.updates import StackedReplies


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return Simulation(
        parse(
            {
                "clients": 5,
                "attack": "none",
                "partition": "iid",
                "local_epochs": 2,
                "momentum": 0.5,
                "weight_decay": 0.01,
            }
        )
    )


def instructions(simulation: Simulation, kind: str = "train") -> list[Message]:
    InProcessGrid(simulation.trainer)
    record = RecordDict(
        {
            "arrays": ArrayRecord(simulation.server_model.module.state_dict()),
            "config": ConfigRecord({"server-round": 3}),
        }
    )
    return [Message(record, dst_node_id=node, message_type=kind) for node in range(5)]


def plain_pytorch(simulation: Simulation, client: int) -> dict[str, torch.Tensor]:
    """The same local training, written with PyTorch's own parts."""
    config = simulation.config
    fresh = Simulation(config)
    model: nn.Module = fresh.model
    model.load_state_dict(simulation.server_model.module.state_dict())
    x, y = fresh.federation.shard(client, attacking=False)
    optimiser = torch.optim.SGD(
        model.parameters(),
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    stream = generator(config.seed, 3, client, "batches")
    model.train()
    for _ in range(config.local_epochs):
        order = torch.randperm(len(y), generator=stream)
        for rows in order.split(config.batch_size):
            optimiser.zero_grad()
            functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimiser.step()
    return model.state_dict()


def test_training_equals_plain_pytorch(simulation):
    replies = InProcessGrid(simulation.trainer).send_and_receive(instructions(simulation))
    for client, reply in enumerate(replies):
        expected = plain_pytorch(simulation, client)
        arrays = reply.content["arrays"]
        for name, value in expected.items():
            torch.testing.assert_close(
                torch.from_numpy(arrays[name].numpy()), value, atol=1e-6, rtol=1e-5
            )
        x, _ = simulation.federation.shard(client, attacking=False)
        assert reply.content["metrics"]["num-examples"] == len(x)


def test_replies_carry_their_matrix_and_are_ordinary_messages(simulation):
    replies = InProcessGrid(simulation.trainer).send_and_receive(instructions(simulation))
    assert isinstance(replies, StackedReplies)
    assert replies.deltas.shape == (5, simulation.trainer.layout.size)
    assert [reply.metadata.src_node_id for reply in replies] == list(range(5))
    assert all(isinstance(reply, Message) and reply.has_content() for reply in replies)


def test_the_order_of_instructions_changes_no_client(simulation):
    grid = InProcessGrid(simulation.trainer)
    forward = grid.send_and_receive(instructions(simulation))
    backward = grid.send_and_receive(instructions(simulation)[::-1])
    assert torch.equal(forward.deltas, backward.deltas.flip(0))


def test_evaluation_and_unknown_instructions(simulation):
    grid = InProcessGrid(simulation.trainer)
    for reply in grid.send_and_receive(instructions(simulation, "evaluate")):
        metrics = reply.content["metrics"]
        assert 0.0 <= metrics["accuracy"] <= 1.0
    replies = grid.send_and_receive(instructions(simulation, "query"))
    assert all(reply.has_error() for reply in replies)


def test_pushing_and_pulling(simulation):
    grid = InProcessGrid(simulation.trainer)
    ids = list(grid.push_messages(instructions(simulation)))
    assert len(set(ids)) == 5
    assert len(list(grid.pull_messages(ids))) == 5
    assert list(grid.pull_messages(ids)) == []


def test_flower_still_takes_a_senders_identity_from_one_place(simulation):
    """Fails loudly when Flower moves it; see fedguard/grids/identity.py."""
    before = TaskIdentity.run_id
    TaskIdentity.run_id = 4711
    try:
        message = Message(RecordDict(), dst_node_id=1, message_type="train")
    finally:
        TaskIdentity.run_id = before
    assert message.metadata.run_id == 4711
