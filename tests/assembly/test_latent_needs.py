"""A network without a latent layer: refused for rules that read one, used by all others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fedguard.config import parse
from fedguard.errors import ConfigurationError
from fedguard.runs.simulation import Simulation

HERE = "tests.assembly.test_latent_needs"


class Functional(nn.Module):
    """Parameters of its own and no submodule at all."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight


def simulation(strategy: str) -> Simulation:
    return Simulation(
        parse({"strategy": strategy, "model": f"{HERE}:Functional", "clients": 5, "rounds": 1})
    )


@pytest.mark.parametrize("strategy", ["flare", "geminiguard"])
def test_a_rule_that_reads_a_latent_layer_is_refused_before_round_1(strategy: str) -> None:
    with pytest.raises(ConfigurationError, match="latent_layer"):
        simulation(strategy)


@pytest.mark.parametrize("strategy", ["fltrust", "weidetect", "krum"])
def test_a_rule_that_reads_none_takes_the_network(strategy: str) -> None:
    tools = getattr(simulation(strategy).strategy, "tools", None)
    assert tools is None or tools.latent_layer == ""
