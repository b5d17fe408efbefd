"""Whole runs of retrieval by hashes: going on after a stop, and engines that agree."""

from __future__ import annotations

from functools import partial

import pytest
import task_runs
from task_runs import check_engine, check_going_on

from fedguard.config import parse


def config(**values):
    given = {
        "dataset": {"name": "retrieval"},
        "clients": 4,
        "malicious": 0.25,
        "rounds": 3,
        "local_epochs": 1,
        "attack": {"name": "padhash", "steps": 3, "epochs": 2, "copies": 2},
        **values,
    }
    return parse(given)


run = partial(task_runs.run, config)


def test_a_run_tells_map_and_what_the_attack_reached(tmp_path):
    summary, rounds = run(tmp_path / "run")
    assert summary["headline"]["name"] == "map"
    assert len(rounds) == 4
    assert all(0.0 <= line["attack_success_rate"] <= 1.0 for line in rounds[1:])


def test_a_stopped_run_goes_on_to_the_same_model(tmp_path):
    check_going_on(config, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "within"), [("ray", 0.0), ("flower", 1e-5)])
def test_engines_agree(tmp_path, engine, within):
    check_engine(config, tmp_path, engine, within)
