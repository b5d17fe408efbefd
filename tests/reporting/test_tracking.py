"""Trackers get what rounds.jsonl gets, change nothing, and are refused in one line if missing."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fedguard.config import parse
from fedguard.errors import ConfigurationError
from fedguard.reporting.tracking import PACKAGES, Tracking, check_trackers
from fedguard.simulate import main

TINY = ["--clients", "4", "--rounds", "2", "--local-epochs", "1", "--strategy", "median"]


def run(out: Path, *words: str) -> list[dict[str, Any]]:
    assert main([*TINY, "--out", str(out), *words]) == 0
    return [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]


def test_off_by_default(tmp_path: Path) -> None:
    run(tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names.isdisjoint({"tensorboard", "tracking.json", "wandb", "mlruns"})


def test_a_missing_package_is_refused_before_round_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in PACKAGES:
        assert main([*TINY, "--track", name, "--out", str(tmp_path / name)]) == 2
        said = capsys.readouterr().err.strip()
        assert f"pip install 'fedguard[{name}]'" in said
        assert "\n" not in said
        assert not (tmp_path / name).exists()


def test_an_unknown_tracker_is_told_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'tensorboard'"):
        check_trackers(["tensorbord"])


def test_names_may_be_joined_and_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert check_trackers(["mlflow,tensorboard", "mlflow"]) == ("mlflow", "tensorboard")


class Seen:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.rounds: dict[int, dict[str, float]] = {}
        self.closed: list[bool] = []

    def log(self, server_round: int, metrics: Mapping[str, float]) -> None:
        self.rounds[server_round] = dict(metrics)

    def close(self, completed: bool) -> None:
        self.closed.append(completed)


def tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Tracking, Seen]:
    seen = Seen()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr("fedguard.reporting.tracking._TensorBoard", lambda config, directory: seen)
    return Tracking(["tensorboard"], parse({"rounds": 2}), tmp_path), seen


def test_every_number_of_a_round_is_tracked_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking, seen = tracked(tmp_path, monkeypatch)
    line = {"round": 3, "perplexity": 17.5, "failed": 2, "loss": None, "per_class_recall": [0.5]}
    line |= {"reasons": {"no reply": 2}, "flag": True, "text": "x", "odd": float("nan")}
    with tracking:
        tracking.on_round(line)
    assert seen.rounds == {3: {"perplexity": 17.5, "failed": 2.0}}


@pytest.mark.parametrize("finished", [True, False])
def test_a_tracker_is_closed_with_how_the_run_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    tracking, seen = tracked(tmp_path, monkeypatch)
    with tracking:
        if finished:
            tracking.finish({})
    assert seen.closed == [finished]


def test_tensorboard_holds_every_round(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plain = run(tmp_path / "plain")
    tracked = run(tmp_path / "tracked", "--track", "tensorboard")
    assert [line["accuracy"] for line in plain] == [line["accuracy"] for line in tracked]
    events = EventAccumulator(str(tmp_path / "tracked" / "tensorboard"))
    events.Reload()
    seen = {event.step: event.value for event in events.Scalars("accuracy")}
    assert seen == pytest.approx({line["round"]: line["accuracy"] for line in tracked})
    assert "attack_success_rate" not in events.Tags()["scalars"], "there is no backdoor"
    digests = {
        json.loads((tmp_path / name / "summary.json").read_text())["config_digest"]
        for name in ("plain", "tracked")
    }
    assert len(digests) == 1


def mlflow_client(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    tracking = pytest.importorskip("mlflow.tracking", reason="needs the extra mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", folder.as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return tracking.MlflowClient(tracking_uri=folder.as_uri())


def test_mlflow_holds_settings_and_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = mlflow_client(tmp_path / "store", monkeypatch)
    lines = run(tmp_path / "run", "--track", "mlflow")
    experiment = client.get_experiment_by_name("fedguard")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.params["strategy.name"] == "median"
    history = {m.step: m.value for m in client.get_metric_history(found.info.run_id, "accuracy")}
    assert history == pytest.approx({line["round"]: line["accuracy"] for line in lines})


def test_a_resumed_run_goes_on_under_the_same_id_and_an_error_ends_it_as_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = mlflow_client(tmp_path / "store", monkeypatch)
    config = parse({"rounds": 2})

    def fail() -> None:
        with Tracking(["mlflow"], config, tmp_path) as tracking:
            tracking.on_round({"round": 1, "accuracy": 0.5})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    experiment = client.get_experiment_by_name("fedguard")
    (failed,) = client.search_runs([experiment.experiment_id])
    assert failed.info.status == "FAILED"
    with Tracking(["mlflow"], config, tmp_path) as tracking:
        tracking.on_round({"round": 2, "accuracy": 0.75})
        tracking.finish({})
    (whole,) = client.search_runs([experiment.experiment_id])
    assert whole.info.status == "FINISHED"
    history = client.get_metric_history(whole.info.run_id, "accuracy")
    assert [(m.step, m.value) for m in history] == [(1, 0.5), (2, 0.75)]


def test_wandb_keeps_an_offline_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="needs the extra wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run(tmp_path / "run", "--track", "wandb")
    kept = list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(kept) == 1
    assert kept[0].stat().st_size > 0
