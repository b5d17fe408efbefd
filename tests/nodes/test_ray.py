from __future__ import annotations

import pytest
import ray

from fedguard.config import parse
from fedguard.errors import RunError
from fedguard.nodes import ray as engine
from fedguard.runs.simulation import Simulation

VALUES = {
    "strategy": "fedavg",
    "clients": 7,
    "malicious": 0.3,
    "fraction": 0.72,
    "rounds": 3,
    "local_epochs": 1,
    "executor": "reuse",
    "attack": "alie",
}


@pytest.fixture(scope="module", autouse=True)
def running():
    """One Ray for the module; workers of every grid start inside it."""
    started = engine.start_ray(None, 4)
    yield
    if started:
        ray.shutdown()


def run(out, **values):
    return Simulation(parse({**VALUES, **values})).run(out)


@pytest.mark.parametrize(
    ("workers", "attack"),
    [(1, "alie"), (2, "neurotoxin"), pytest.param(4, "label-flip", marks=pytest.mark.slow)],
)
def test_any_number_of_workers_gives_the_hash_of_the_inprocess_engine(tmp_path, workers, attack):
    here = run(tmp_path / "here", engine="inprocess", attack=attack)
    there = run(tmp_path / "there", engine="ray", workers=workers, attack=attack)
    assert there["engine"] == "ray"
    assert there["executor"] == "reuse"
    assert there["model_sha256"] == here["model_sha256"]


def test_a_lost_worker_is_replaced_and_its_clients_train_again(tmp_path, monkeypatch):
    here = run(tmp_path / "here", engine="inprocess")
    take, lost = engine.RayExecutor._take, []

    def kill_once(self, answer, rows, deltas, trained):
        if not lost:
            lost.append(self.actors[1])
            ray.kill(self.actors[1])
        return take(self, answer, rows, deltas, trained)

    monkeypatch.setattr(engine.RayExecutor, "_take", kill_once)
    there = run(tmp_path / "there", engine="ray", workers=2)
    assert len(lost) == 1
    assert there["model_sha256"] == here["model_sha256"]


def test_workers_that_are_lost_again_and_again_end_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "ATTEMPTS", 1)
    take = engine.RayExecutor._take

    def kill(self, answer, rows, deltas, trained):
        ray.kill(self.actors[0])
        return take(self, answer, rows, deltas, trained)

    monkeypatch.setattr(engine.RayExecutor, "_take", kill)
    with pytest.raises(RunError, match="lost the workers"):
        run(tmp_path, engine="ray", workers=1)


def test_resuming_on_another_number_of_workers(tmp_path):
    whole = run(tmp_path / "whole", engine="inprocess", attack="neurotoxin")

    class StopError(Exception):
        pass

    def stop(record):
        if record["round"] == 2:
            raise StopError

    values = {**VALUES, "engine": "ray", "attack": "neurotoxin"}
    cut = tmp_path / "cut"
    with pytest.raises(StopError):
        Simulation(parse({**values, "workers": 1})).run(cut, on_round=stop)
    resumed = Simulation(parse({**values, "workers": 2})).run(cut, resume=True)
    assert resumed["model_sha256"] == whole["model_sha256"]


def test_a_cluster_that_is_not_there_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def refuse(**_):
        raise ConnectionError("nobody answers\nat that address")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(RunError, match="nobody answers at that address"):
        engine.start_ray("10.0.0.1:6379", 2)
