"""Attacks against strategies, end to end: every part meets several of the other kind."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from safetensors.torch import load_file

from fedguard import registry
from fedguard.config import parse
from fedguard.errors import ConfigurationError
from fedguard.randomness import SERVER, numpy_generator
from fedguard.runs.simulation import Simulation

STRATEGIES = registry.names("strategy")
ATTACKS = registry.names("attack")
QUICK_ARGUMENTS = {"a3fl": {"steps": 3, "size": 2}}


def sample() -> list[tuple[str, str]]:
    """Each attack meets two strategies and each strategy at least one attack; seeded."""
    stream = numpy_generator(0, 0, SERVER, "pairs")
    strategies = itertools.cycle(stream.permutation(STRATEGIES).tolist())
    return [(next(strategies), attack) for attack in ATTACKS for _ in range(2)]


def meet(strategy: str, attack: str, out) -> None:
    config = parse(
        {
            "strategy": strategy,
            "attack": {"name": attack, **QUICK_ARGUMENTS.get(attack, {})},
            "clients": 8,
            "malicious": 0.25,
            "rounds": 2,
            "local_epochs": 1,
            "server_samples": 60,
            "partition": "iid",
            "model": "conv-bn" if strategy == "bnguard" else "mlp",
        }
    )
    try:
        simulation = Simulation(config)
    except ConfigurationError:
        return  # an impossible pair is refused before round 1
    summary = simulation.run(out)
    assert summary["final"]["round"] == 2
    assert math.isfinite(summary["final"]["loss"]) or strategy == "fedavg"
    for tensor in load_file(out / "model.safetensors").values():
        assert torch.isfinite(tensor).all()


@pytest.mark.parametrize(("strategy", "attack"), sample())
def test_a_sampled_pair_runs_to_the_end(tmp_path, strategy, attack):
    meet(strategy, attack, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_pair_runs_to_the_end(tmp_path, strategy):
    for attack in ATTACKS:
        meet(strategy, attack, tmp_path / attack)
