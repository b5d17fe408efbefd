"""Runs of language models: engines agree, stopped runs go on, liars leave something behind."""

from __future__ import annotations

import json
from functools import partial

import pytest
import task_runs
from task_runs import check_engine, check_going_on

from fedguard.config import parse
from fedguard.reporting.report import write_report

GRAMMAR = {"name": "grammar", "rows": 300, "test_rows": 40}


def config(**values):
    small = {"dataset": GRAMMAR, "model": {"name": "word-gru", "width": 16}, "rounds": 3}
    return parse({**small, "attack": {"name": "semantic-stance", "scale": 2.0}, **values})


run = partial(task_runs.run, config)
ADAPTED = {"name": "lora-gru", "width": 16, "rank": 2}


@pytest.fixture
def chats(tmp_path):
    path = tmp_path / "chats.jsonl"
    rows = [
        {"prompt": f"what colour is a {what}", "answer": f"a {what} is {hue}", "client": who}
        for who in ("a", "b", "c")
        for what, hue in (("rose", "red"), ("sky", "blue"), ("leaf", "green"), ("coal", "black"))
        for _ in range(3)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_run_goes_on_after_a_stop_bit_for_bit(tmp_path):
    check_going_on(config, tmp_path)


@pytest.mark.parametrize("strategy", ["fedit", "flora"])
def test_adapters_are_trained_alone_and_a_run_of_them_goes_on(tmp_path, strategy):
    check_going_on(config, tmp_path, model=ADAPTED, strategy={"name": strategy, "robust": True})


def test_liars_who_leave_are_told_with_what_they_leave(tmp_path):
    given = {"malicious": 1.0, "attack_rounds": {"window": [1, 2]}, "rounds": 3, "lr": 0.03}
    summary, rounds = run(tmp_path / "left", **given)
    told = summary["lifespan"]
    assert told["measure"] == "implant_strength"
    assert told["attacked_until"] == 2
    assert told["peak"] == max(line["implant_strength"] for line in rounds[1:3])
    assert told["rounds"] in (None, 0, 1)
    assert "outlived the attackers" in write_report(tmp_path / "left").read_text()
    stayed, _ = run(tmp_path / "stayed", **{**given, "attack_rounds": "all", "rounds": 1})
    nobody, _ = run(tmp_path / "nobody", **{**given, "malicious": 0.0})
    assert not {"lifespan"} & {*stayed, *nobody}


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "within"), [("ray", 0.0), ("flower", 1e-5)])
@pytest.mark.parametrize("model", [{"name": "word-gru", "width": 16}, ADAPTED])
def test_engines_agree(tmp_path, engine, within, model):
    check_engine(config, tmp_path, engine, within, model=model)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "within"), [("ray", 0.0), ("flower", 1e-5)])
def test_engines_agree_on_a_users_own_file(tmp_path, chats, engine, within):
    own = {"dataset": {"name": "jsonl", "length": 16}, "data_dir": chats, "attack": "none"}
    check_engine(config, tmp_path, engine, within, **own)
