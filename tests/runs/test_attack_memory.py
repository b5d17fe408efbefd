"""What an attack remembers lasts through a stop; who comes late is not there before."""

from __future__ import annotations

import pytest
from cut_short import cut, lines, resume, run

from fedguard.records.writer import read_jsonl

ATTACKED = {"malicious": 0.34, "rounds": 6}


@pytest.mark.parametrize(
    "attack",
    [
        {"name": "poisonedfl", "check_every": 2},
        {"name": "xfed", "window": 3},
        {"name": "layer-poisoning", "epochs": 1, "size": 2},
        {"name": "soda", "epochs": 1},
        {"name": "dpot", "pixels": 4, "steps": 3},
        {"name": "copycat"},
        {"name": "boiling-frog", "start": 0.5},
        {"name": "sybils"},
    ],
    ids=lambda attack: attack["name"],
)
def test_a_resumed_attack_ends_as_an_uninterrupted_one(tmp_path, attack):
    values = {**ATTACKED, "attack": attack}
    whole = run(tmp_path / "whole", **values)
    cut(tmp_path / "cut", after=4, **values)
    assert resume(tmp_path / "cut", **values)["model_sha256"] == whole["model_sha256"]
    honest = run(tmp_path / "honest", **{**values, "malicious": 0.0})
    assert honest["model_sha256"] != whole["model_sha256"]


@pytest.mark.parametrize("attack", ["poisonedfl", "neurotoxin"])
def test_an_attack_that_looks_back_resumes_behind_a_server_that_plants_an_indicator(
    tmp_path, attack
):
    values = {
        **ATTACKED,
        "attack": attack,
        "strategy": {"name": "backdoor-indicator", "indicator_steps": 5, "indicator_lr": 0.1},
    }
    whole = run(tmp_path / "whole", **values)
    cut(tmp_path / "cut", after=3, **values)
    assert resume(tmp_path / "cut", **values)["model_sha256"] == whole["model_sha256"]


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["poisonedfl", "layer-poisoning", "soda"])
def test_engines_agree_on_an_attack_that_reads_the_model_or_remembers(tmp_path, attack):
    values = {**ATTACKED, "attack": attack, "rounds": 3, "model": "logistic"}
    here = run(tmp_path / "here", **values)
    there = run(tmp_path / "there", **values, engine="flower")
    assert here["final"]["accuracy"] == there["final"]["accuracy"]


def test_a_coalition_that_joins_late_does_not_answer_before(tmp_path):
    values = {**ATTACKED, "attack": "sign-flip", "attack_rounds": {"join": 4}}
    summary = run(tmp_path / "late", **values)
    rounds = read_jsonl(tmp_path / "late" / "rounds.jsonl")
    answered = [row["answered"] for row in rounds if row["round"]]
    assert answered == [4, 4, 4, 6, 6, 6]
    assert summary["final"]["round"] == 6
    cut(tmp_path / "cut", after=2, **values)
    assert resume(tmp_path / "cut", **values)["model_sha256"] == summary["model_sha256"]
    assert lines(tmp_path / "cut" / "rounds.jsonl")
