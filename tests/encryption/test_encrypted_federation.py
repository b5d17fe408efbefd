"""Whole federations: the encrypted model is the plain one."""

from __future__ import annotations

import pytest
import torch
from encrypted_clients import small

from fedguard.config import parse
from fedguard.encryption.ckks import Ckks
from fedguard.encryption.xmkckks import XmkCkks
from fedguard.grids.adversarial import AdversarialGrid
from fedguard.grids.inprocess import InProcessGrid
from fedguard.metrics.classification import evaluate
from fedguard.runs.simulation import Simulation
from fedguard.strategies.fedavg import FedAvg
from fedguard.strategies.median import Median

CLIENTS = 10


def train(strategy, **values) -> tuple[torch.Tensor, float]:
    """Run a federation; return the final weights and the accuracy."""
    rounds = values.pop("rounds", 5)
    config = parse({"clients": CLIENTS, "rounds": rounds, "strategy": "fedavg", **values})
    simulation = Simulation(config)
    layout = strategy.layout = simulation.server_model.layout
    attack, malicious = simulation.attack, simulation.federation.malicious
    grid = AdversarialGrid(InProcessGrid(simulation.trainer), attack, malicious, config.seed)
    state = simulation.server_model.module.state_dict()
    first = layout.flatten({name: value.cpu() for name, value in state.items()})
    result = strategy.start(
        grid=strategy.client_side(grid),
        initial_arrays=layout.to_arrays(first),
        num_rounds=rounds,
    )
    vector = layout.vector_from_arrays(result.arrays)
    simulation.server_model.load(vector)
    found = evaluate(
        simulation.server_model.module,
        simulation.test_x,
        simulation.test_y,
        simulation.dataset.num_classes,
    )
    return vector, found.accuracy


HONEST = {"attack": "none", "malicious": 0.0}


@pytest.mark.parametrize("make", [XmkCkks, Ckks])
def test_digits_come_out_as_with_plain_averaging(make):
    pytest.importorskip("tenseal")
    plain, accuracy = train(FedAvg(**small(CLIENTS)), **HONEST)
    found, encrypted_accuracy = train(make(**small(CLIENTS)), **HONEST)
    assert float((found - plain).abs().max()) < 1e-3
    assert abs(encrypted_accuracy - accuracy) <= 0.005
    assert accuracy > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("make", [XmkCkks, Ckks])
def test_mnist_comes_out_as_with_plain_averaging(make, torchvision_dir):
    """At steps that do not amplify a difference of 3e-9 themselves; see docs/encryption.md."""
    pytest.importorskip("tenseal")
    values = {
        **HONEST,
        "dataset": "mnist",
        "data_dir": str(torchvision_dir),
        "model": "mlp",
        "partition": "iid",
        "lr": 0.01,
        "batch_size": 128,
    }
    plain, accuracy = train(FedAvg(**small(CLIENTS)), **values)
    found, encrypted_accuracy = train(make(**small(CLIENTS)), **values)
    assert float((found - plain).abs().max()) < 1e-4
    assert abs(encrypted_accuracy - accuracy) <= 0.002


def test_the_coalition_lies_before_it_encrypts():
    """An attack that reads and rewrites updates works on encrypted clients as on plain ones."""
    lying = {"attack": {"name": "sign-flip", "scale": 10.0}, "malicious": 0.3, "rounds": 3}
    _, honest = train(XmkCkks(backend="numpy", **small(CLIENTS)), **HONEST, rounds=3)
    _, attacked = train(XmkCkks(backend="numpy", **small(CLIENTS)), **lying)
    assert attacked < honest - 0.2


def test_groups_of_one_rule_survive_what_the_mean_does_not():
    lying = {
        "attack": {"name": "sign-flip", "scale": 10.0},
        "malicious": 0.1,
        "rounds": 4,
        "partition": "iid",
        "batch_size": 8,
        "clients": 20,
    }
    grouped = XmkCkks(backend="numpy", groups=3, rule="median", **small(20))
    _, robust = train(grouped, **lying)
    _, broken = train(XmkCkks(backend="numpy", **small(20)), **lying)
    _, plain = train(Median(**small(20)), **lying)
    assert robust > broken + 0.2
    assert robust > plain - 0.1
