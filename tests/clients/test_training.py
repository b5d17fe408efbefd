from __future__ import annotations

import pytest
import torch
from torch import nn

from fedguard.config import parse
from fedguard.models.flat import FlatModel
from fedguard.runs.simulation import Simulation


class WithBuffers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.linear = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.norm(x))


def test_a_flat_model_is_the_module():
    module = WithBuffers()
    flat = FlatModel(module)
    start = flat.layout.flatten(module.state_dict())
    changed = start + 1.0
    flat.load(changed)
    for name, value in flat.layout.unflatten(changed).items():
        torch.testing.assert_close(module.state_dict()[name].float(), value)
    module(torch.randn(8, 3)).sum().backward()
    assert float(flat.gradient.abs().max()) > 0.0
    flat.vector.add_(flat.gradient, alpha=-0.5)
    torch.testing.assert_close(
        module.linear.bias.detach(),
        flat.layout.unflatten(changed)["linear.bias"] - 0.5 * module.linear.bias.grad,
    )


def test_deltas_cover_buffers():
    flat = FlatModel(WithBuffers())
    start = flat.layout.flatten(flat.module.state_dict())
    flat.module(5.0 + torch.randn(16, 3))
    delta = torch.empty_like(start)
    flat.delta_from(start, delta)
    tensors = flat.layout.unflatten(delta)
    assert float(tensors["norm.running_mean"].min()) > 0.0
    assert float(tensors["norm.num_batches_tracked"]) == 1.0
    assert float(tensors["linear.weight"].abs().max()) == 0.0
    flat.load(start + delta)
    assert int(flat.module.norm.num_batches_tracked) == 1


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return Simulation(parse({"clients": 4, "malicious": 0.25, "attack": "pgd", "partition": "iid"}))


def test_one_clients_training_leaves_no_trace_in_the_next(simulation):
    trainer = simulation.trainer
    state = simulation.server_model.module.state_dict()
    start = trainer.layout.flatten(state)
    alone, after = torch.empty_like(start), torch.empty_like(start)
    trainer.train(2, 1, start, alone)
    trainer.train(1, 1, start, after)
    trainer.train(2, 1, start, after)
    assert torch.equal(alone, after)


def test_rounds_and_clients_have_batches_of_their_own(simulation):
    trainer = simulation.trainer
    start = trainer.layout.flatten(simulation.server_model.module.state_dict())
    one, two = torch.empty_like(start), torch.empty_like(start)
    trainer.train(2, 1, start, one)
    trainer.train(2, 2, start, two)
    assert not torch.equal(one, two)


def test_only_a_liar_that_attacks_changes_its_steps(simulation):
    trainer = simulation.trainer
    start = trainer.layout.flatten(simulation.server_model.module.state_dict())
    liar = min(simulation.federation.malicious)
    honest = min(set(range(4)) - simulation.federation.malicious)
    for client, changes in ((liar, True), (honest, False)):
        quiet, loud = torch.empty_like(start), torch.empty_like(start)
        trainer.train(client, 1, start, quiet, attacking=False)
        trainer.train(client, 1, start, loud, attacking=True)
        assert torch.equal(quiet, loud) != changes
