"""The audit of unlearning comes with its strategy and writes what it found."""

from __future__ import annotations

import json

import pytest

from fedguard.config import parse
from fedguard.errors import ConfigurationError
from fedguard.records.writer import read_jsonl
from fedguard.runs.simulation import Simulation

SMALL = {
    "strategy": "soul",
    "clients": 4,
    "malicious": 0.0,
    "attack": "none",
    "partition": "iid",
    "rounds": 4,
    "local_epochs": 1,
    "unlearn": [{"client": 1, "round": 3}],
}


def test_it_watches_every_run_of_its_strategy_and_writes_its_file(tmp_path):
    simulation = Simulation(parse(SMALL))
    assert list(simulation.world.audits) == ["unlearning"]
    simulation.run(tmp_path)
    found = json.loads((tmp_path / "unlearning.json").read_text())
    assert found
    told = [line for line in read_jsonl(tmp_path / "audits.jsonl") if "audit" in line]
    assert {line["audit"] for line in told} == {"unlearning"}
    assert {line["round"] for line in told} <= {0, 1, 2, 3, 4}


def test_it_is_made_once_where_it_is_asked_for_as_well():
    simulation = Simulation(parse({**SMALL, "audit": "unlearning"}))
    assert list(simulation.world.audits) == ["unlearning"]


def test_it_refuses_a_run_whose_strategy_does_not_unlearn(tmp_path):
    values = {**SMALL, "strategy": "fedavg", "audit": "unlearning", "unlearn": []}
    with pytest.raises(ConfigurationError, match="only with a strategy that unlearns"):
        Simulation(parse(values)).run(tmp_path)


def test_other_strategies_are_watched_by_nobody():
    values = {**SMALL, "strategy": "fedavg", "unlearn": []}
    assert Simulation(parse(values)).world.audits == {}
