"""A round on two Ray nodes, one of which is killed in its midst."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fedguard.config import parse
from fedguard.nodes.ray import RayExecutor
from fedguard.runs.simulation import Simulation

ROOT = Path(__file__).resolve().parents[2]

VALUES = {
    "strategy": "multi-krum",
    "clients": 7,
    "malicious": 0.3,
    "rounds": 3,
    "local_epochs": 1,
    "executor": "reuse",
    "attack": "alie",
}

TWO_NODES = """
import json, sys
from pathlib import Path
from ray.cluster_utils import Cluster
from fedguard.config import parse
from fedguard.nodes import ray as engine
from fedguard.runs.simulation import Simulation

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
other = cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
arrives, seen = engine.RayExecutor._arrives, []

def kill_a_node_once(self, worker, answer):
    seen.append(len(self.actors))
    if len(seen) == 3:  # round 2 has begun: its clients train on both nodes
        cluster.remove_node(other, allow_graceful=False)
    return arrives(self, worker, answer)

engine.RayExecutor._arrives = kill_a_node_once
values = json.loads(sys.argv[1])
values.update(engine="ray", workers=2, ray_address=cluster.address)
summary = Simulation(parse(values)).run(Path(sys.argv[2]))
print(json.dumps({"sha": summary["model_sha256"], "workers": seen, "replies": summary["replies"]}))
cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.parametrize("updates_on", ["server", "workers"])
def test_a_node_that_is_killed_costs_its_clients_time_and_nothing_else(tmp_path, updates_on):
    here = Simulation(parse({**VALUES, "engine": "inprocess"})).run(tmp_path / "here")
    values = {**VALUES, "updates_on": updates_on}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    environment["RAY_worker_niceness"] = "0"  # else a busy machine starves its workers
    # Whoever starts Ray later on this machine must not find this cluster: a place of its own.
    place = tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True)
    environment["RAY_TMPDIR"] = place.name
    command = [sys.executable, "-c", TWO_NODES, json.dumps(values), str(tmp_path / "there")]
    with place:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=280
        )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["sha"] == here["model_sha256"]
    assert found["replies"] == here["replies"]
    assert found["workers"][:3] == [2, 2, 2]
    assert found["workers"][-1] == 1, "the node that is left has room for one worker"


class Bare(RayExecutor):
    """The executor without Ray: who works, and where there is room."""

    def __init__(self, actors, places):
        self.actors, self.places = list(actors), places

    def _new_actor(self):
        return "new"

    def _places(self):
        return self.places


@pytest.mark.parametrize(
    ("lost", "places", "left"),
    [
        ([1], 3, ["a", "new", "c"]),
        ([1], 2, ["a", "c"]),
        ([0, 2], 2, ["new", "b"]),
        ([0, 1, 2], 2, ["new", "new"]),
        ([0, 1, 2], 0, ["new"]),
    ],
)
def test_lost_workers_are_replaced_where_a_living_node_has_room(lost, places, left):
    executor = Bare("abc", places)
    executor._replace(lost)
    assert executor.actors == left
