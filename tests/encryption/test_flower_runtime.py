"""The protocol between real Flower processes: ClientApps with the mod, on Flower's simulation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

CLIENTS = 4
PROGRAM = """
import json, sys, warnings
import numpy as np, torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation
from fedguard.encryption.protocol.endpoint import ClientOptions
from fedguard.encryption.mod import encryption_mod
from fedguard.encryption.xmkckks import XmkCkks

client = ClientApp(mods=[encryption_mod(ClientOptions(backend="numpy"))])

@client.train()
def train(message: Message, context: Context) -> Message:
    part = context.node_config["partition-id"]
    model = message.content.array_records["arrays"]["w"].numpy()
    arrays = ArrayRecord([]) ; arrays["w"] = ArrayRecord([model + 0.01 * (part + 1)])["0"]
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 10 + part})})
    return Message(content, reply_to=message)

server = ServerApp()

@server.main()
def main(grid: Grid, context: Context) -> None:
    first = ArrayRecord([]); first["w"] = ArrayRecord([np.zeros((30, 20), dtype=np.float32)])["0"]
    strategy = XmkCkks(backend="numpy", min_train_nodes=4, min_available_nodes=4)
    trips = []
    def watch(server_round, updates, verdict):
        trips.append(len(strategy.trips))
    strategy.observers.append(watch)
    result = strategy.start(grid=grid, initial_arrays=first, num_rounds=2)
    found = result.arrays["w"].numpy()
    print("RESULT " + json.dumps({"mean": float(found.mean()), "spread": float(np.ptp(found)),
                                  "trips": trips}))

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    run_simulation(server, client, num_supernodes=4,
                   backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}})
"""


@pytest.mark.slow
def test_client_apps_on_flowers_simulation_engine_encrypt(tmp_path):
    import os
    import subprocess
    import sys

    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, str(program)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": str(root),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_HOME": str(tmp_path),
            "OMP_NUM_THREADS": "1",
        },
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads(lines[0].removeprefix("RESULT "))
    weights = [10 + part for part in range(CLIENTS)]
    step = sum(0.01 * (p + 1) * w for p, w in enumerate(weights)) / sum(weights)
    assert found["mean"] == pytest.approx(2 * step, abs=1e-6)
    assert found["spread"] < 1e-5
    assert found["trips"] == [4, 2]
