"""Repairs in whole runs: killed and resumed, decided by alarms, and the same on every engine."""

from __future__ import annotations

import pytest
import yaml
from cut_short import StopError, kill

from fedguard.config import parse
from fedguard.records.writer import read_jsonl
from fedguard.runs.simulation import Simulation

VALUES = {
    "clients": 4,
    "malicious": 0.25,
    "attack": {"name": "badnets", "size": 2},
    "strategy": "fedavg",
    "model": {"name": "conv-bn", "channels": [4, 4, 8, 8, 8]},
    "rounds": 4,
    "local_epochs": 1,
    "batch_size": 64,
    "partition": "iid",
    "server_samples": 40,
    "executor": "reuse",
    "repair": {"name": "rnp", "confidence": 0.0, "threshold": 0.9999},
    "repair_at": "every:3",
}


def run(out, *, resume=False, on_round=lambda _: None, **values):
    return Simulation(parse({**VALUES, **values})).run(out, resume=resume, on_round=on_round)


def told(out, name="repairs.jsonl"):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_jsonl(out / name)]


def stop_after(count):
    def stop(record):
        if record["round"] == count:
            raise StopError

    return stop


def test_channels_are_pruned_for_good_in_these_runs(tmp_path):
    whole = run(tmp_path / "whole")
    plain = run(tmp_path / "plain", repair=None, repair_at="end")
    for line in told(tmp_path / "whole"):
        assert line["pruned"] == sum(len(shut) for shut in line["shut_channels"]) > 0
        assert line["layer_sizes"] == [4, 4, 8, 8, 8]
        assert len(line["attention_before"]) == len(line["attention_after"]) == 4
    assert whole["model_sha256"] != plain["model_sha256"]


@pytest.mark.slow
def test_kill_minus_nine_and_resume_in_a_run_that_prunes_every_three_rounds(tmp_path):
    values = {**VALUES, "rounds": 40, "audit": {"name": "rnp-alarm", "every": 4}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    kill(tmp_path / "cut", [str(tmp_path / "run.yaml")], "round-0000[01][4-9]*")
    resumed = run(tmp_path / "cut", resume=True, **values)
    whole = run(tmp_path / "whole", **values)
    assert resumed["model_sha256"] == whole["model_sha256"]
    for name in ("repairs.jsonl", "audits.jsonl", "rounds.jsonl"):
        assert told(tmp_path / "cut", name) == told(tmp_path / "whole", name)


@pytest.mark.slow
@pytest.mark.parametrize("after", [2, 3])
def test_a_run_whose_alarm_decides_goes_on_after_a_crash_with_what_it_pruned(tmp_path, after):
    # Due in rounds 2 and 4: what round 2 pruned is kept shut in round 3, crash or not.
    alarm = {"audit": {"name": "rnp-alarm", "at_least": 0.01, "every": 2}, "repair_at": "alarm"}
    whole = run(tmp_path / "whole", **alarm)
    with pytest.raises(StopError):
        run(tmp_path / "cut", on_round=stop_after(after), **alarm)
    resumed = run(tmp_path / "cut", resume=True, **alarm)
    assert resumed["model_sha256"] == whole["model_sha256"]
    assert [line["round"] for line in told(tmp_path / "whole")] == [2, 4]
    for name in ("repairs.jsonl", "audits.jsonl"):
        assert told(tmp_path / "cut", name) == told(tmp_path / "whole", name)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["flower", "ray"])
@pytest.mark.parametrize("strategy", ["fedavg", "geminiguard"])
def test_every_engine_gives_the_same_repaired_model(tmp_path, engine, strategy):
    here = run(tmp_path / "here", engine="inprocess", strategy=strategy)
    there = run(tmp_path / "there", engine=engine, workers=2, strategy=strategy)
    assert there["model_sha256"] == here["model_sha256"]
    assert told(tmp_path / "there") == told(tmp_path / "here")
