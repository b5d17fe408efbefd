"""The cost model against the protocol: same error, same bytes, no cryptography, and it says so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from encrypted_clients import LAYOUT, FixedClients, Run, error, first_model, small
from flwr.app import ConfigRecord

from fedguard.encryption.cost_model import noise_std, predicted_cost, simulated_mean
from fedguard.encryption.lattice.profiles import profile
from fedguard.encryption.xmkckks import XmkCkks
from fedguard.encryption.xmkckks_cost_model import XmkCkksCostModel
from fedguard.errors import RunError

CLIENTS = 6


class PlainRun:
    def __init__(self, clients: int = CLIENTS, **options) -> None:
        self.strategy = XmkCkksCostModel(backend="numpy", **options, **small(clients))
        self.grid = FixedClients(clients, [64] * clients)
        self.seen = []
        self.strategy.observers.append(lambda _, u, v: self.seen.append((u, v)))

    def round(self, server_round: int):
        arrays = first_model()
        before = LAYOUT.vector_from_arrays(arrays).double()
        messages = self.strategy.configure_train(server_round, arrays, ConfigRecord(), self.grid)
        found, self.metrics = self.strategy.aggregate_train(
            server_round, self.grid.send_and_receive(messages)
        )
        return LAYOUT.vector_from_arrays(found).double() - before


def test_it_says_that_it_protects_nothing():
    run = PlainRun()
    run.round(1)
    assert "NO CRYPTOGRAPHY" in run.strategy.describe(5)
    assert run.metrics["cost-model-no-cryptography"] == 1
    assert run.strategy.client_options is None
    assert run.metrics["client-seconds"] > 0


def test_means_are_right_up_to_noise_and_repeat():
    runs = [PlainRun(), PlainRun()]
    added = [run.round(1) for run in runs]
    assert 0 < error(added[0], runs[0].grid.mean(1)) < 5e-6
    assert torch.equal(added[0], added[1])
    assert not torch.equal(added[0], PlainRun(seed=1).round(1))


@pytest.mark.parametrize("packing", ["coefficients", "slots"])
def test_the_error_has_the_protocols_distribution(packing):
    rng = np.random.default_rng(0)
    size, clients = 20_000, 5
    deltas = rng.normal(0, 0.05, (clients, size))
    from lattice_worlds import World

    world = World(clients, size, packing=packing, sizes=[128] * clients)
    for row, party in enumerate(world.parties):
        world.updates[party] = deltas[row]
    real = world.run().mean - deltas.mean(axis=0)
    std = noise_std("default", packing, clients)
    modelled = simulated_mean(
        deltas, np.full(clients, 128.0), world.parties, 128, 8.0, std, rng
    ).mean - deltas.mean(axis=0)
    assert modelled.std() == pytest.approx(real.std(), rel=0.05)
    quantiles = [0.01, 0.25, 0.75, 0.99]
    scale = real.std()
    gap = np.quantile(modelled, quantiles) - np.quantile(real, quantiles)
    # The 1 % quantile of 20,000 draws itself spreads by 0.04 of a standard deviation.
    assert np.abs(gap / scale).max() < 0.2


@pytest.mark.parametrize("threshold", [0, 4])
@pytest.mark.parametrize("packing", ["coefficients", "slots"])
def test_bytes_are_those_of_the_protocol(threshold, packing):
    strategy = XmkCkks(backend="numpy", threshold=threshold, packing=packing, **small(CLIENTS))
    run = Run(strategy, CLIENTS)
    run.round(1)
    run.round(2)
    cost = predicted_cost("default", packing, LAYOUT.size, CLIENTS, threshold=threshold)
    assert run.metrics["client-upload-bytes"] == pytest.approx(cost.upload, rel=0.02)
    assert run.metrics["client-download-bytes"] == pytest.approx(cost.download, rel=0.02)


def test_seconds_grow_with_the_number_of_ciphertexts():
    small_model, large_model = (
        predicted_cost("default", "coefficients", size, 10, backend="numpy")
        for size in (4000, 400_000)
    )
    assert large_model.seconds == pytest.approx(98 * small_model.seconds, rel=0.02)


def test_groups_and_rules_work_as_under_encryption():
    run = PlainRun(9, groups=3, rule="median")
    run.grid.override[4] = torch.full((LAYOUT.size,), 5.0)
    added = run.round(1)
    assert float(added[: LAYOUT.num_trainable].abs().max()) < 1
    assert len(run.seen[-1][0].node_ids) == 9


def test_values_are_clipped_as_under_encryption():
    run = PlainRun()
    for party in range(CLIENTS):
        run.grid.override[party] = torch.full((LAYOUT.size,), 50.0)
    added = run.round(1)
    assert torch.allclose(added[:-1], torch.tensor(profile("default").clip).double(), atol=1e-4)
    assert run.metrics["clipped-share"] > 0.9


def test_nobody_left_is_one_clear_error():
    run = PlainRun()
    for party in range(CLIENTS):
        run.grid.override[party] = torch.full((LAYOUT.size,), float("nan"))
    with pytest.raises(RunError, match="no client sent a usable update"):
        run.round(1)
