from __future__ import annotations

import math

import pytest
import torch

from fedguard.errors import ConfigurationError
from fedguard.models.build import build
from fedguard.unlearning.costs import ClientLoad, CostLedger, LinkModel, forward_flops, ratios


def test_operations_of_known_networks():
    mlp = build("mlp", (1, 8, 8), 10, 0, hidden=(32,))
    assert forward_flops(mlp, torch.zeros(1, 1, 8, 8)) == 2 * (64 * 32 + 32 * 10)
    cnn = build("cnn", (1, 28, 28), 10, 0)
    convolutions = 2 * 16 * 25 * 12 * 12 + 2 * 32 * 16 * 9 * 4 * 4
    dense = 2 * (512 * 64 + 64 * 10)
    assert forward_flops(cnn, torch.zeros(1, 1, 28, 28)) == convolutions + dense


def test_the_ledger_counts_three_passes_for_training():
    ledger = CostLedger(100.0, LinkModel(), seed=0)
    ledger.add(1, [ClientLoad(0, 10, 0, 400, 400), ClientLoad(1, 0, 30, 400, 40)])
    ledger.add(2, [ClientLoad(0, 10, 0, 400, 400)])
    assert ledger.between(1, 1)["flops"] == 3 * 10 * 100 + 30 * 100
    assert ledger.between(1, 2)["bytes"] == 1240 + 800
    assert ledger.between(3, 9) == {"flops": 0.0, "bytes": 0.0, "link_seconds": 0.0}


def test_a_round_lasts_as_long_as_its_slowest_client():
    link = LinkModel(nearest_m=500.0, farthest_m=500.0, flops_per_second=1e6)
    ledger = CostLedger(1.0, link, seed=0)
    slow, quick = ClientLoad(0, 0, 2e6, 1000, 1000), ClientLoad(1, 0, 1e6, 1000, 1000)
    ledger.add(1, [quick, slow])
    ledger.add(2, [slow])
    assert ledger.rounds[1]["link_seconds"] == ledger.rounds[2]["link_seconds"]
    assert ledger.rounds[2]["link_seconds"] > 2.0


def test_the_rate_is_shannons():
    link = LinkModel(bandwidth_hz=1e6, noise_w_per_hz=4e-21, carrier_hz=2.4e9)
    gain = (299_792_458 / (4 * math.pi * 2.4e9 * 300.0)) ** 2
    assert link.rate(300.0, 0.1) == pytest.approx(1e6 * math.log2(1 + 0.1 * gain / 4e-15))
    assert link.rate(600.0, 0.1) < link.rate(300.0, 0.1)
    assert 100 <= LinkModel().distance(3, seed=1) <= 1000
    with pytest.raises(ConfigurationError, match=r"link\.bandwidth_hz"):
        LinkModel(bandwidth_hz=0.0)


def test_ratios():
    assert ratios({"bytes": 2.0, "flops": 1.0}, {"bytes": 8.0, "flops": 0.0}) == {
        "bytes": 0.25,
        "flops": None,
    }
