"""What clients remember lasts through crashes, on every engine."""

from __future__ import annotations

import pytest
import torch
import yaml
from cut_short import SMALL, StopError, cut, kill, lines, resume, run

from fedguard.config import LENGTH, parse
from fedguard.errors import RunError
from fedguard.grids.foreign_app import ClientAppGrid
from fedguard.nodes.app import make_client_app
from fedguard.records.checkpoints import CheckpointStore
from fedguard.runs.simulation import Simulation

FEW = {"engine": "flower", "clients": 3, "rounds": 3, "model": "logistic"}
ADAM = {"training": {"name": "adam", "keep": True}, "lr": 0.01}


def test_a_kept_memory_changes_the_run_and_a_resumed_run_ends_alike(tmp_path):
    whole = run(tmp_path / "whole", **ADAM)
    forgetful = run(tmp_path / "forgetful", training="adam", lr=0.01)
    assert forgetful["model_sha256"] != whole["model_sha256"]
    cut(tmp_path / "cut", **ADAM)
    assert resume(tmp_path / "cut", **ADAM)["model_sha256"] == whole["model_sha256"]


def test_memories_come_back_for_clients_that_are_asked_now_and_then(tmp_path):
    values = {**ADAM, "fraction": 0.5, "rounds": 5}
    whole = run(tmp_path / "whole", **values)
    cut(tmp_path / "cut", after=3, **values)
    assert resume(tmp_path / "cut", **values)["model_sha256"] == whole["model_sha256"]


def test_kill_minus_nine_and_resume_with_memories_and_repairs(tmp_path):
    values = {**SMALL, **ADAM, "rounds": 25, "repair": "finetune", "repair_at": "every:3"}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    kill(tmp_path / "cut", [str(tmp_path / "run.yaml")], "round-0000[01][3-9]*")
    resumed = Simulation(parse(values)).run(tmp_path / "cut", resume=True)
    whole = Simulation(parse(values)).run(tmp_path / "whole")
    assert resumed["model_sha256"] == whole["model_sha256"]
    assert lines(tmp_path / "cut" / "repairs.jsonl") == lines(tmp_path / "whole" / "repairs.jsonl")


def test_a_checkpoint_that_holds_no_memories_is_refused(tmp_path):
    cut(tmp_path, **ADAM)
    config = parse({**SMALL, **ADAM})
    store = CheckpointStore(tmp_path / "checkpoint", config.digest(but=LENGTH))
    found = store.newest()
    assert set(found.client_state) == {
        f"{client}/adam.{name}" for client in range(6) for name in ("m", "v", "steps")
    }
    store.save(type(found)(**{**vars(found), "client_state": {}}))
    with pytest.raises(RunError, match="holds no memory of clients, which training adam needs"):
        Simulation(config).run(tmp_path, resume=True)


class Nodes:
    """Flower nodes of this process with fedguard's own app; their contexts end with it."""

    def __init__(self, **values):
        self.config = parse({**SMALL, **ADAM, **FEW, **values})
        self.simulation = Simulation(self.config)
        app = make_client_app(self.config.model_dump_json())
        self.grid = ClientAppGrid(app, self.config.clients, {})

    def run(self, out, *, resume=False, on_round=lambda _: None):
        self.simulation.world.settle(out, resume=resume)  # what a run of our own engine does first
        return self.simulation.run(out, resume=resume, on_round=on_round, grid=self.grid)


def stop_after_two(record):
    if record["round"] == 2:
        raise StopError


def test_flowers_nodes_hand_over_their_memories_and_get_them_back(tmp_path):
    whole = Nodes().run(tmp_path / "whole")
    with pytest.raises(StopError):
        Nodes().run(tmp_path / "cut", on_round=stop_after_two)
    resumed = Nodes().run(tmp_path / "cut", resume=True)
    assert resumed["model_sha256"] == whole["model_sha256"]


def test_on_real_nodes_memories_stay_where_they_are(tmp_path):
    nodes = Nodes(rounds=1)
    app = make_client_app()
    grid = ClientAppGrid(app, 3, {})
    for context in grid.contexts:
        context.run_config = {
            "clients": 3,
            "model": "logistic",
            "strategy": "fedavg",
            "attack": "none",
            "partition": "iid",
            "training": "adam",
            "set": "training.keep=true",
            "local_epochs": 1,
            "lr": 0.01,
        }
    nodes.simulation.run(tmp_path, grid=grid)
    assert nodes.simulation.trainer.memories == {}
    assert all("training-memory" in context.state for context in grid.contexts)
    with pytest.raises(RunError, match="holds no memory"):
        Nodes(rounds=1).run(tmp_path, resume=True)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ray", "flower"])
def test_every_engine_resumes_with_memories(tmp_path, engine):
    values = {**ADAM, "engine": engine, "workers": 2, "rounds": 3}
    whole = run(tmp_path / "whole", **values)
    cut(tmp_path / "cut", **values)
    assert resume(tmp_path / "cut", **values)["model_sha256"] == whole["model_sha256"]


def test_a_kept_memory_is_data_of_the_trained_parameters(tmp_path):
    simulation = Simulation(parse({**SMALL, **ADAM, "rounds": 1}))
    simulation.run(tmp_path)
    for memory in simulation.trainer.memories.values():
        assert memory["adam.m"].shape == (simulation.trainer.layout.num_trainable,)
        assert bool(torch.isfinite(memory["adam.v"]).all())
