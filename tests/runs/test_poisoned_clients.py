"""Honest clients whose own data a third party poisoned: their data, the truth, what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from cut_short import SMALL, cut, lines, resume, run

from fedguard.clients.federation import draw_malicious, draw_poisoned
from fedguard.config import parse
from fedguard.errors import ConfigurationError
from fedguard.runs.simulation import Simulation

POISONED = {
    "attack": {"name": "badnets", "poison_fraction": 0.5},
    "model": "cnn",
    "clients": 6,
    "rounds": 2,
    "poisoned_clients": 0.34,
}


def test_poisoned_clients_are_drawn_among_the_honest():
    for seed in range(20):
        malicious = draw_malicious(10, 0.3, seed)
        poisoned = draw_poisoned(10, 0.3, malicious, seed)
        assert len(poisoned) == 3
        assert not poisoned & malicious
    assert draw_poisoned(10, 1.0, malicious, 0) == frozenset(range(10)) - malicious
    assert len({draw_poisoned(10, 0.3, malicious, seed) for seed in range(20)}) > 5


def test_their_data_are_poisoned_in_every_round_and_nobody_elses():
    world = Simulation(parse({**SMALL, **POISONED})).world
    federation = world.federation
    assert len(federation.poisoned) == 2
    for client in range(6):
        rows = federation.shards[client]
        clean = federation.normalise(federation.dataset.x_train[rows])
        for attacking in (False, True):
            x, y = federation.shard(client, attacking=attacking)
            same = torch.equal(x, clean) and torch.equal(y, federation.dataset.y_train[rows])
            assert same == (client not in federation.poisoned)
    x, _ = federation.server_examples()
    assert torch.equal(x, federation.normalise(federation.dataset.x_train[federation.server_rows]))


def test_the_truth_is_written_down_and_they_are_not_malicious(tmp_path):
    summary = run(tmp_path, **POISONED)
    poisoned = summary["poisoned_clients"]
    assert (summary["malicious"], summary["attack"], len(poisoned)) == (0, "badnets", 2)
    told = lines(tmp_path / "clients.jsonl")
    assert {line["client"] for line in told if line["poisoned"]} == set(poisoned)
    assert not any(line["malicious"] for line in told)
    model = json.loads((tmp_path / "threat_model.json").read_text())
    assert model["third party"]["clients"] == poisoned
    assert lines(tmp_path / "rounds.jsonl")[-1]["attack_success_rate"] is not None


def test_a_run_without_them_says_nothing_of_them(tmp_path):
    summary = run(tmp_path, rounds=1)
    assert "poisoned_clients" not in summary
    assert "poisoned" not in lines(tmp_path / "clients.jsonl")[0]
    assert "third party" not in json.loads((tmp_path / "threat_model.json").read_text())


@pytest.mark.parametrize("attack", ["sign-flip", "a3fl", "none"])
def test_an_attack_that_poisons_no_data_once_and_for_all_is_refused(attack):
    with pytest.raises(ConfigurationError, match="poisons data once"):
        Simulation(parse({**SMALL, **POISONED, "attack": attack}))


@pytest.mark.parametrize("rule", ["abl", "fed-nad"])
def test_training_rules_run_on_them_and_go_on_after_a_crash(tmp_path, rule):
    values = {**POISONED, "rounds": 4, "training": rule, "lr": 0.05}
    whole = run(tmp_path / "whole", **values)
    cut(tmp_path / "cut", after=2, **values)
    assert resume(tmp_path / "cut", **values)["model_sha256"] == whole["model_sha256"]


@pytest.mark.parametrize("rule", ["abl", "fed-nad"])
def test_rules_for_classifiers_are_refused_for_other_tasks(tmp_path, rule):
    speech = "the king sees the queen . a fool hears my lord . "
    blocks = [f"{('FIRST', 'SECOND')[turn % 2]}:\n{speech}" for turn in range(60)]
    (tmp_path / "input.txt").write_text("\n\n".join(blocks))
    play = {"name": "shakespeare", "speakers": 2, "length": 6, "vocabulary": 12}
    values = {"dataset": play, "data_dir": tmp_path, "model": "word-gru", "training": rule}
    with pytest.raises(ConfigurationError, match="classification alone"):
        Simulation(parse({**SMALL, **values, "clients": 2}))
